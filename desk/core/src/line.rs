//! Who waits, in the order in which they are served, and by whom they may be. Nothing here is part of what the desk is: it is made
//! anew from the sessions after a load, and found again by the place alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::agents::Agents;
use crate::session::{Place, Session};

#[derive(Clone, PartialEq, Debug)]
struct Waiting {
    customer: String,
    group: String,
    named: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Line {
    all: BTreeMap<Place, Waiting>,
    /// By group; none is empty.
    groups: BTreeMap<String, Group>,
    /// Those who named an agent, by agent; none is empty.
    named: BTreeMap<String, BTreeSet<Place>>,
}

#[derive(Clone, PartialEq, Debug, Default)]
struct Group {
    all: BTreeSet<Place>,
    /// Without those whom only one agent will do.
    anyone: BTreeSet<Place>,
}

impl Line {
    /// A session that waits; of another there is no place.
    pub fn stand(&mut self, customer: &str, session: &Session) {
        let Some(place) = session.place() else { return };
        self.leave(place);
        let group = self.groups.entry(session.group.clone()).or_default();
        group.all.insert(place);
        if session.named.is_none() || !session.only {
            group.anyone.insert(place);
        }
        if let Some(named) = &session.named {
            self.named.entry(named.clone()).or_default().insert(place);
        }
        let waiting = Waiting {
            customer: customer.to_owned(),
            group: session.group.clone(),
            named: session.named.clone(),
        };
        self.all.insert(place, waiting);
    }

    pub fn leave(&mut self, place: Place) {
        let Some(waiting) = self.all.remove(&place) else {
            return;
        };
        if let Some(group) = self.groups.get_mut(&waiting.group) {
            group.all.remove(&place);
            group.anyone.remove(&place);
            if group.all.is_empty() {
                self.groups.remove(&waiting.group);
            }
        }
        if let Some(named) = waiting.named
            && let Some(places) = self.named.get_mut(&named)
        {
            places.remove(&place);
            if places.is_empty() {
                self.named.remove(&named);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// In the order of the line.
    pub fn customers(&self) -> impl Iterator<Item = &str> {
        self.all.values().map(|w| w.customer.as_str())
    }

    /// Where each of them stands in the own group's line, from 1. One walk a group, however many they are.
    pub fn counted(&self, wanted: &BTreeMap<&str, BTreeSet<Place>>) -> BTreeMap<Place, u32> {
        let mut counted = BTreeMap::new();
        for (group, wanted) in wanted {
            let all = self.groups.get(*group).into_iter().flat_map(|g| &g.all);
            let found = all.zip(1..).filter(|(place, _)| wanted.contains(place));
            counted.extend(found.take(wanted.len()).map(|(place, n)| (*place, n)));
        }
        counted
    }

    /// The first whom somebody able may be given. Looks at the groups somebody waits in, and at the agents somebody named or, where
    /// they are fewer, at those able.
    pub fn next(&self, agents: &Agents) -> Option<&str> {
        if self.all.is_empty() || !agents.anybody_able() {
            return None;
        }
        let served = self.groups.iter().filter(|(group, _)| agents.anybody_serves(group));
        let by_group = served.filter_map(|(_, group)| group.anyone.first()).min();
        let first_of = |agent: &String| self.named.get(agent).and_then(BTreeSet::first);
        let by_name = if self.named.len() <= agents.able_count() {
            let able = self.named.keys().filter(|agent| agents.is_able(agent));
            able.filter_map(first_of).min()
        } else {
            agents.able_names().filter_map(first_of).min()
        };
        let place = by_group.into_iter().chain(by_name).min()?;
        self.all.get(place).map(|w| w.customer.as_str())
    }
}
