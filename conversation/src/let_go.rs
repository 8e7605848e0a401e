//! Whom of staff the conversation let go, and after which event. A connection that was attached at an owner that died ends
//! exactly there at the heir, whatever decision let it go: many of them (a supervisor who stops watching) take no event, so the
//! events' bytes cannot say it.

use wire::Seq;
use wire::record::Session;

/// Members of staff remembered, beyond those one decision lets go together. One who is not known any more is pushed nothing.
const REMEMBERED_MAX: usize = 16;

/// Everybody of staff a session names: assigned, joined and watching.
pub fn named(session: &Session) -> impl Iterator<Item = &str> {
    std::iter::once(session.agent.as_str())
        .filter(|a| !a.is_empty())
        .chain(session.joined.iter().map(String::as_str))
        .chain(session.watching.iter().map(String::as_str))
}

pub fn is_named(session: &Session, user: &str) -> bool {
    named(session).any(|n| n == user)
}

/// The last ones let go and not named since, oldest first.
#[derive(Clone, PartialEq, Debug, Default)]
// Most conversations in memory have none: a third of a Vec's size.
#[allow(clippy::box_collection)]
pub(crate) struct LetGo(Option<Box<Vec<(String, Seq)>>>);

impl LetGo {
    pub fn of(users: Vec<(String, Seq)>) -> Self {
        Self((!users.is_empty()).then(|| Box::new(users)))
    }

    /// The session changed with the event `seq`, or after it if the change takes none.
    pub fn changed(&mut self, before: &Session, after: &Session, seq: Seq) {
        let mut users = self.0.take().map(|users| *users).unwrap_or_default();
        users.retain(|(user, _)| !is_named(after, user));
        let others = users.len();
        for user in named(before).filter(|user| !is_named(after, user)) {
            users.retain(|(known, _)| known != user);
            users.push((user.to_owned(), seq));
        }
        let together = users.iter().filter(|(_, at)| *at == seq).count();
        let gone = users.len().saturating_sub(REMEMBERED_MAX.max(together)).min(others);
        users.drain(..gone);
        users.shrink_to_fit();
        *self = Self::of(users);
    }

    pub fn at(&self, user: &str) -> Option<Seq> {
        self.iter().find(|(known, _)| known == user).map(|(_, seq)| *seq)
    }

    pub fn iter(&self) -> impl Iterator<Item = &(String, Seq)> {
        self.0.iter().flat_map(|users| users.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(agent: &str, watching: &[&str]) -> Session {
        Session {
            agent: agent.into(),
            watching: watching.iter().map(|w| (*w).to_owned()).collect(),
            ..Session::default()
        }
    }

    #[test]
    fn the_last_place_counts_and_who_is_named_again_is_forgotten() {
        let mut let_go = LetGo::default();
        let_go.changed(&session("bo", &["sue"]), &session("bo", &[]), Seq(4));
        let_go.changed(&session("bo", &[]), &session("", &[]), Seq(6));
        assert_eq!((let_go.at("sue"), let_go.at("bo")), (Some(Seq(4)), Some(Seq(6))));
        let_go.changed(&session("", &[]), &session("bo", &[]), Seq(8));
        assert_eq!((let_go.at("sue"), let_go.at("bo")), (Some(Seq(4)), None));
        let_go.changed(&session("bo", &[]), &session("cy", &[]), Seq(9));
        assert_eq!(let_go.at("bo"), Some(Seq(9)));
    }

    #[test]
    fn the_oldest_are_forgotten_but_never_of_one_decision() {
        let mut let_go = LetGo::default();
        let names: Vec<String> = (0..40).map(|n| format!("w{n}")).collect();
        let crowd: Vec<&str> = names.iter().map(String::as_str).collect();
        let_go.changed(&session("old", &[]), &session("", &[]), Seq(2));
        let_go.changed(&session("bo", &crowd), &session("", &[]), Seq(5));
        assert_eq!(let_go.iter().count(), 41);
        assert_eq!(let_go.at("old"), None);
        let_go.changed(&session("cy", &[]), &session("", &[]), Seq(7));
        assert_eq!(let_go.iter().count(), REMEMBERED_MAX);
        assert_eq!(let_go.at("cy"), Some(Seq(7)));
    }
}
