//! What a proxy can be told to do to its connections, and how it is written: `up stall`, `both delay 100..300`, `rst`, `heal`.

use std::fmt;
use std::str::FromStr;

/// Towards the server, towards the client, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Up,
    Down,
    Both,
}

impl Way {
    pub fn is_up(self) -> bool {
        self != Way::Down
    }

    pub fn is_down(self) -> bool {
        self != Way::Up
    }
}

/// One thing a proxy does. What counts bytes counts each connection's own, from the moment the verb was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Every chunk comes so much later; order is kept.
    Delay {
        min_ms: u64,
        max_ms: u64,
    },
    Rate {
        bytes_per_s: u64,
    },
    /// Accepts, and reads nothing: what is sent waits, as behind a cut that heals in time.
    Stall,
    /// Reads and forwards nothing: half-open, as the sender sees it. What was lost is lost, so at `heal` the connection is reset.
    Blackhole,
    /// Resets what is there, once.
    Rst,
    /// Resets what is there and whatever comes.
    Refuse,
    /// Ends one direction of what is there, once.
    Fin,
    /// Resets after so many bytes.
    Cut {
        after_bytes: u64,
    },
    Split {
        every_bytes: usize,
    },
    /// Gathers what comes within so long into one write.
    Coalesce {
        within_ms: u64,
    },
    /// One bit of this byte (counted from 0) is wrong.
    Flip {
        at_byte: u64,
    },
}

/// A verb and where it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    pub way: Way,
    pub verb: Verb,
}

/// All that holds for one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    pub delay_ms: Option<(u64, u64)>,
    pub bytes_per_s: Option<u64>,
    pub stall: bool,
    pub blackhole: bool,
    pub cut_after_bytes: Option<u64>,
    pub split_bytes: Option<usize>,
    pub coalesce_ms: Option<u64>,
    pub flip_at_byte: Option<u64>,
}

impl Shape {
    /// Adds a verb to what holds already; those that happen once are not shapes.
    pub fn add(&mut self, verb: Verb) {
        match verb {
            Verb::Delay { min_ms, max_ms } => self.delay_ms = Some((min_ms, max_ms.max(min_ms))),
            Verb::Rate { bytes_per_s } => self.bytes_per_s = Some(bytes_per_s.max(1)),
            Verb::Stall => self.stall = true,
            Verb::Blackhole => self.blackhole = true,
            Verb::Cut { after_bytes } => self.cut_after_bytes = Some(after_bytes),
            Verb::Split { every_bytes } => self.split_bytes = Some(every_bytes.max(1)),
            Verb::Coalesce { within_ms } => self.coalesce_ms = Some(within_ms),
            Verb::Flip { at_byte } => self.flip_at_byte = Some(at_byte),
            Verb::Rst | Verb::Refuse | Verb::Fin => {}
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no order: write [up|down] delay A..B | rate N | stall | blackhole | rst | refuse | fin | cut N | split N | coalesce MS | flip N"
)]
pub struct BadOrder(pub String);

impl FromStr for Order {
    type Err = BadOrder;

    fn from_str(text: &str) -> Result<Self, BadOrder> {
        let bad = || BadOrder(text.to_owned());
        let mut words = text.split_whitespace().peekable();
        let way = match words.peek() {
            Some(&"up") => Way::Up,
            Some(&"down") => Way::Down,
            Some(&"both") => Way::Both,
            _ => Way::Both,
        };
        words.next_if(|w| ["up", "down", "both"].contains(w));
        let name = words.next().ok_or_else(bad)?;
        let argument = words.next();
        let number = || argument.and_then(|a| a.parse::<u64>().ok()).ok_or_else(bad);
        let verb = match name {
            "delay" => {
                let (min, max) = argument.and_then(|a| a.split_once("..")).ok_or_else(bad)?;
                let ms = |t: &str| t.parse::<u64>().map_err(|_| bad());
                Verb::Delay {
                    min_ms: ms(min)?,
                    max_ms: ms(max)?,
                }
            }
            "rate" => Verb::Rate { bytes_per_s: number()? },
            "stall" => Verb::Stall,
            "blackhole" => Verb::Blackhole,
            "rst" => Verb::Rst,
            "refuse" => Verb::Refuse,
            "fin" => Verb::Fin,
            "cut" => Verb::Cut { after_bytes: number()? },
            "split" => Verb::Split {
                every_bytes: usize::try_from(number()?).map_err(|_| bad())?,
            },
            "coalesce" => Verb::Coalesce { within_ms: number()? },
            "flip" => Verb::Flip { at_byte: number()? },
            _ => return Err(bad()),
        };
        let takes_none = matches!(
            verb,
            Verb::Stall | Verb::Blackhole | Verb::Rst | Verb::Refuse | Verb::Fin
        );
        if words.next().is_some() || (takes_none && argument.is_some()) {
            return Err(bad());
        }
        Ok(Order { way, verb })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.way {
            Way::Up => "up ",
            Way::Down => "down ",
            Way::Both => "",
        })?;
        match self.verb {
            Verb::Delay { min_ms, max_ms } => write!(f, "delay {min_ms}..{max_ms}"),
            Verb::Rate { bytes_per_s } => write!(f, "rate {bytes_per_s}"),
            Verb::Stall => f.write_str("stall"),
            Verb::Blackhole => f.write_str("blackhole"),
            Verb::Rst => f.write_str("rst"),
            Verb::Refuse => f.write_str("refuse"),
            Verb::Fin => f.write_str("fin"),
            Verb::Cut { after_bytes } => write!(f, "cut {after_bytes}"),
            Verb::Split { every_bytes } => write!(f, "split {every_bytes}"),
            Verb::Coalesce { within_ms } => write!(f, "coalesce {within_ms}"),
            Verb::Flip { at_byte } => write!(f, "flip {at_byte}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_read_as_it_is_written() {
        for text in [
            "delay 100..300",
            "up rate 2000",
            "down stall",
            "blackhole",
            "rst",
            "refuse",
            "up fin",
            "cut 1000",
            "split 1",
            "down coalesce 50",
            "up flip 7",
        ] {
            let order: Order = text.parse().unwrap();
            assert_eq!(order.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_order_is_refused() {
        for text in [
            "",
            "up",
            "delay",
            "delay 3",
            "rate fast",
            "stall now",
            "sideways stall",
            "cut",
        ] {
            assert!(text.parse::<Order>().is_err(), "{text:?}");
        }
    }
}
