//! A conversation's history by HTTP: pages of entries, each the very bytes that were pushed.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::incoming::Event;
use crate::policy::Ended;
use crate::transport::Tls;
use crate::transport::request::{Api, Asked};

#[derive(Debug, thiserror::Error)]
pub enum PageError {
    #[error("history of {conversation}: {why}")]
    Request { conversation: String, why: String },
    #[error("history of {conversation}: HTTP status {status}: {problem}")]
    Status {
        conversation: String,
        status: u16,
        problem: String,
        /// When the server wants to be asked again, if it says so.
        retry_after_ms: Option<u64>,
    },
    #[error("history of {conversation}: {why}")]
    Shape { conversation: String, why: String },
}

/// How often one page is asked for again when the server says when.
const RETRIES_MAX: u64 = 50;

/// RFC 9457, as far as it matters here.
#[derive(serde::Deserialize)]
struct Problem {
    retry_after_ms: Option<u64>,
}

/// One page, rising.
#[derive(Debug)]
pub struct Page {
    pub events: Vec<Event>,
    /// As stored: what is younger has not reached the store yet.
    pub last_seq: u64,
}

/// Reads history of one node. Cheap to clone.
#[derive(Clone)]
pub struct Pages {
    api: Api,
}

/// A page must be there within this time.
const PAGE_MS_MAX: u64 = 30_000;

impl Pages {
    /// `url` may be the `ws://` or `http://` URL of the node; over TLS, held against the system's authorities.
    pub fn new(url: &str) -> Result<Self, PageError> {
        Self::over(url, None)
    }

    /// The same with authorities of one's own.
    pub fn over(url: &str, tls: Option<Tls>) -> Result<Self, PageError> {
        let refuse = |e: Ended| PageError::Request {
            conversation: "-".into(),
            why: e.reason,
        };
        let api = Api::new(url, tls).map_err(refuse)?;
        Ok(Self { api })
    }

    /// The next `limit` events after `after`.
    pub async fn after(&self, token: &str, conversation: &str, after: u64, limit: u32) -> Result<Page, PageError> {
        let failed = |why: String| PageError::Request {
            conversation: conversation.to_owned(),
            why,
        };
        let path = format!(
            "/v1/conversations/{}/events?after={after}&limit={limit}",
            escape(conversation)
        );
        let asking = self.api.ask(Asked {
            method: http::Method::GET,
            path: &path,
            token,
            accept: "application/json",
            body: Bytes::new(),
        });
        let in_time = tokio::time::timeout(std::time::Duration::from_millis(PAGE_MS_MAX), asking).await;
        let response = in_time
            .map_err(|_| failed("no answer within 30 s".into()))?
            .map_err(|e| failed(e.reason))?;
        let status = response.status().as_u16();
        let bytes = response.into_body();
        if status != 200 {
            return Err(PageError::Status {
                conversation: conversation.to_owned(),
                status,
                problem: String::from_utf8_lossy(&bytes).chars().take(300).collect(),
                retry_after_ms: serde_json::from_slice::<Problem>(&bytes)
                    .ok()
                    .and_then(|p| p.retry_after_ms),
            });
        }
        read_page(&bytes).map_err(|why| PageError::Shape {
            conversation: conversation.to_owned(),
            why: why.to_string(),
        })
    }

    /// Everything after `after` up to `upto`, or as far as it is stored, page by page; waits when it is told to.
    pub async fn all(&self, token: &str, conversation: &str, after: u64, upto: u64) -> Result<Vec<Event>, PageError> {
        let mut all = Vec::new();
        let mut at = after;
        let mut retries = 0;
        while at < upto {
            let asked = self.after(token, conversation, at, wire::limits::PAGE_EVENTS_MAX).await;
            if let Err(PageError::Status {
                retry_after_ms: Some(wait_ms),
                ..
            }) = &asked
                && retries < RETRIES_MAX
            {
                retries += 1;
                tokio::time::sleep(std::time::Duration::from_millis((*wait_ms).max(20 * retries))).await;
                continue;
            }
            let page = asked?;
            retries = 0;
            let Some(last) = page.events.last() else {
                // What is not stored yet is no hole; what is stored and not in its page is one.
                let stored = page.last_seq.min(upto);
                if stored > at {
                    return Err(PageError::Shape {
                        conversation: conversation.to_owned(),
                        why: format!("the page after {at} is empty, and the history goes to {stored}"),
                    });
                }
                break;
            };
            at = last.seq;
            all.extend(page.events.into_iter().filter(|e| e.seq <= upto));
        }
        Ok(all)
    }
}

fn read_page(bytes: &Bytes) -> Result<Page, serde_json::Error> {
    #[derive(serde::Deserialize)]
    struct Raw<'a> {
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
        last_seq: u64,
    }
    let raw: Raw = serde_json::from_slice(bytes)?;
    let events = raw.events.iter();
    Ok(Page {
        events: events
            .map(|e| Event::from_entry(bytes.slice_ref(e.get().as_bytes())))
            .collect::<Result<_, _>>()?,
        last_seq: raw.last_seq,
    })
}

/// A path segment, percent-encoded.
fn escape(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_keeps_each_entrys_bytes() {
        let entry = r#"{"conversation":"a","seq":4,"at":1,"id":"x","from":{"role":"agent","user":"b"},"message":{"text":"\u0041", "n":1e400}}"#;
        let page = read_page(&Bytes::from(format!(r#"{{"events":[{entry}],"last_seq":9}}"#))).unwrap();
        assert_eq!(page.last_seq, 9);
        assert_eq!(page.events[0].raw, entry.as_bytes());
        assert_eq!(page.events[0].body(), Some(r#"{"text":"\u0041", "n":1e400}"#));
    }

    #[test]
    fn names_of_any_script_and_with_slashes_are_one_segment() {
        assert_eq!(escape("a/b é"), "a%2Fb%20%C3%A9");
    }
}
