//! Recognises the frames of the hot path by their bytes, as the server writes them. Anything written otherwise is `Other`, and
//! read by the vocabulary's own types: nothing depends on the spacing, it is only slower.

use crate::pair::Who;

#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    Sent(&'a [u8]),
    Placed {
        id: &'a [u8],
        seq: u64,
    },
    Message {
        own: bool,
        id: &'a [u8],
        seq: u64,
        body: &'a [u8],
    },
    /// To be read the slow way.
    Other,
    /// Known, and of no interest here.
    Nothing,
}

/// What stands around the variable parts, for one side of one pair.
#[derive(Debug)]
pub struct Heads {
    event: Vec<u8>,
    placed_mid: Vec<u8>,
    from_peer: Vec<u8>,
    from_self: Vec<u8>,
}

impl Heads {
    pub fn new(customer: &str, who: Who, me: &str, peer: &str) -> Self {
        let from = |who: Who, name: &str| {
            format!(r#"","from":{{"role":"{}","user":"{name}"}},"message":"#, who.role()).into_bytes()
        };
        Self {
            event: format!(r#"{{"event":{{"conversation":"{customer}","seq":"#).into_bytes(),
            placed_mid: format!(r#"","conversation":"{customer}","seq":"#).into_bytes(),
            from_peer: from(who.other(), peer),
            from_self: from(who, me),
        }
    }

    pub fn frame<'a>(&self, frame: &'a [u8]) -> Seen<'a> {
        if let Some(rest) = frame.strip_prefix(br#"{"sent":{"id":""#) {
            match rest.strip_suffix(br#""}}"#) {
                Some(id) => Seen::Sent(id),
                None => Seen::Other,
            }
        } else if let Some(rest) = frame.strip_prefix(br#"{"placed":{"id":""#) {
            self.placed(rest).unwrap_or(Seen::Other)
        } else if let Some(rest) = frame.strip_prefix(self.event.as_slice()) {
            self.message(rest).unwrap_or(Seen::Other)
        } else if frame.starts_with(br#"{"receipt""#)
            || frame.starts_with(br#"{"typing""#)
            || frame.starts_with(br#"{"queue""#)
        {
            Seen::Nothing
        } else {
            Seen::Other
        }
    }

    fn placed<'a>(&self, rest: &'a [u8]) -> Option<Seen<'a>> {
        let (id, rest) = until_quote(rest)?;
        let (seq, _) = number(rest.strip_prefix(self.placed_mid.as_slice())?)?;
        Some(Seen::Placed { id, seq })
    }

    fn message<'a>(&self, rest: &'a [u8]) -> Option<Seen<'a>> {
        let (seq, rest) = number(rest)?;
        let (_, rest) = number(rest.strip_prefix(br#","at":"#)?)?;
        let (id, rest) = until_quote(rest.strip_prefix(br#","id":""#)?)?;
        let (own, rest) = match rest.strip_prefix(self.from_peer.as_slice()) {
            Some(rest) => (false, rest),
            None => (true, rest.strip_prefix(self.from_self.as_slice())?),
        };
        let body = rest.strip_suffix(b"}}")?;
        Some(Seen::Message { own, id, seq, body })
    }
}

/// Splits before the next quote. Ids of this generator have nothing to escape; one with a backslash is read the slow way.
fn until_quote(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|b| *b == b'"' || *b == b'\\')?;
    (bytes[at] == b'"').then(|| bytes.split_at(at))
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
    if digits == 0 || digits > 19 {
        return None;
    }
    let n = bytes[..digits].iter().fold(0u64, |n, d| n * 10 + u64::from(d - b'0'));
    Some((n, &bytes[digits..]))
}

#[cfg(test)]
mod tests {
    use wire::event::{event_frame, placed_frame, sent_frame};
    use wire::record::{Role, Sender};
    use wire::{Seq, event::role_name};

    use super::*;

    #[test]
    fn the_servers_own_bytes_are_recognised() {
        let heads = Heads::new("cy", Who::Agent, "bo", "cy");
        assert_eq!(heads.frame(&sent_frame("r-1")), Seen::Sent(b"r-1"));
        assert_eq!(
            heads.frame(&placed_frame("cy", Seq(9), 1766361600000, "r-1")),
            Seen::Placed { id: b"r-1", seq: 9 }
        );
        for (role, user, own) in [(Role::Customer, "cy", false), (Role::Agent, "bo", true)] {
            assert!(!role_name(role).is_empty());
            let from = Sender {
                role: role.into(),
                user: user.into(),
            };
            let frame = event_frame("cy", Seq(7), 1766361600000, "r-2", &from, br#""message":{"text":"}}"}"#);
            let body = br#"{"text":"}}"}"#;
            let expected = Seen::Message {
                own,
                id: b"r-2",
                seq: 7,
                body,
            };
            assert_eq!(heads.frame(&frame), expected);
        }
    }

    #[test]
    fn anything_else_goes_the_slow_way() {
        let heads = Heads::new("cy", Who::Agent, "bo", "cy");
        for frame in [
            r#"{ "sent":{"id":"1"}}"#,
            r#"{"event":{"conversation":"di","seq":1,"at":1}}"#,
            r#"{"event":{"conversation":"cy","seq":3,"at":1,"from":{"role":"system"},"assigned":{"agent":"bo"}}}"#,
            r#"{"connected":{}}"#,
            "",
            "{",
        ] {
            assert_eq!(heads.frame(frame.as_bytes()), Seen::Other, "{frame}");
        }
    }
}
