//! The bodies and ids that the generator sends: made from the sender and a number, so that every received byte can be checked
//! without remembering anything.

/// Digits of the number in an id and a body.
const DIGITS: usize = 10;

/// One sender's messages.
#[derive(Debug)]
pub struct Sample {
    id_head: Vec<u8>,
    tail: Vec<u8>,
}

const BODY_HEAD: &[u8] = br#"{"text":""#;
const FILLER: &[u8] = b" The parcel was to come on Monday; it is Thursday now. Could you look where it is, please?";

impl Sample {
    /// The shortest body.
    pub const BYTES_MIN: usize = BODY_HEAD.len() + DIGITS + 2;

    pub fn new(id_head: String, body_bytes: usize) -> Self {
        let fill = body_bytes.saturating_sub(Self::BYTES_MIN);
        let mut tail: Vec<u8> = FILLER.iter().copied().cycle().take(fill).collect();
        tail.extend_from_slice(br#""}"#);
        Self {
            id_head: id_head.into_bytes(),
            tail,
        }
    }

    /// `"id":"…","body":{…}`, the inside of a `send`.
    pub fn push_id(&self, n: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id_head);
        push_digits(n, out);
    }

    pub fn push_body(&self, n: u64, out: &mut Vec<u8>) {
        out.extend_from_slice(BODY_HEAD);
        push_digits(n, out);
        out.extend_from_slice(&self.tail);
    }

    /// The number of an id that this sender made.
    pub fn number(&self, id: &[u8]) -> Option<u64> {
        digits(id.strip_prefix(self.id_head.as_slice())?)
    }

    /// Whether these are the bytes of body `n`.
    pub fn is_body(&self, n: u64, body: &[u8]) -> bool {
        body.strip_prefix(BODY_HEAD)
            .and_then(|rest| rest.split_at_checked(DIGITS))
            .is_some_and(|(number, tail)| digits(number) == Some(n) && tail == self.tail)
    }
}

fn push_digits(mut n: u64, out: &mut Vec<u8>) {
    let mut text = [b'0'; DIGITS];
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (n % 10) as u8;
        n /= 10;
    }
    out.extend_from_slice(&text);
}

fn digits(text: &[u8]) -> Option<u64> {
    (text.len() == DIGITS).then_some(())?;
    text.iter()
        .try_fold(0u64, |n, d| d.is_ascii_digit().then(|| n * 10 + u64::from(d - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_known_again_and_any_changed_byte_is_seen() {
        let sample = Sample::new("ab-c".into(), 200);
        let mut body = Vec::new();
        sample.push_body(42, &mut body);
        assert_eq!(body.len(), 200);
        assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
        assert!(sample.is_body(42, &body) && !sample.is_body(43, &body));
        for at in 0..body.len() {
            let mut changed = body.clone();
            changed[at] ^= 1;
            assert!(!sample.is_body(42, &changed), "byte {at}");
        }
        let mut id = Vec::new();
        sample.push_id(42, &mut id);
        assert_eq!(sample.number(&id), Some(42));
        assert_eq!(Sample::new("other".into(), 200).number(&id), None);
    }
}
