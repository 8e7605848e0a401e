//! Who may do what: one table of role × verb for every transport. Which token says so is the edge's business.

use wire::record::Role;
use wire::{Device, Tenant, User};

/// What a verified token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Claims {
    pub tenant: Tenant,
    pub user: User,
    pub role: Role,
    /// Unix milliseconds.
    pub expires_at_ms: u64,
    /// Unix milliseconds; 0 if the token does not say (a revocation then always covers it).
    pub issued_at_ms: i64,
    pub device: Option<Device>,
    pub groups: Vec<String>,
    /// 0 highest … 2.
    pub priority: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Connect,
    Send,
    Note,
    Recall,
    Typing,
    Status,
    Request,
    Close,
    Accept,
    Transfer,
    Rate,
    Tag,
    Join,
    Leave,
    Watch,
    ReadHistory,
}

impl Verb {
    /// The verb of a deed's name.
    pub fn of_deed(name: &str) -> Option<Verb> {
        Some(match name {
            "request" => Verb::Request,
            "close" => Verb::Close,
            "accept" => Verb::Accept,
            "transfer" => Verb::Transfer,
            "rate" => Verb::Rate,
            "note" => Verb::Note,
            "tag" => Verb::Tag,
            "join" => Verb::Join,
            "leave" => Verb::Leave,
            "watch" => Verb::Watch,
            "recall" => Verb::Recall,
            _ => return None,
        })
    }
}

/// What somebody must have in a conversation to do something there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Not this role.
    Never,
    /// It is their own conversation.
    Own,
    /// Watching, or more.
    Watch,
    /// Assigned or joined.
    Full,
    /// The role is enough (the desk, or the tenant's settings, decide the rest).
    Role,
}

/// The table.
pub fn need(role: Role, verb: Verb) -> Need {
    use Verb as V;
    match role {
        Role::Customer => match verb {
            V::Connect | V::Send | V::Recall | V::Typing | V::Request | V::Close | V::Rate | V::ReadHistory => {
                Need::Own
            }
            V::Note | V::Status | V::Accept | V::Transfer | V::Tag | V::Join | V::Leave | V::Watch => Need::Never,
        },
        Role::Agent | Role::Bot => match verb {
            V::Connect | V::Status | V::Accept | V::Leave | V::Request | V::ReadHistory => Need::Role,
            V::Send | V::Recall | V::Typing | V::Close | V::Transfer => Need::Full,
            V::Note | V::Tag => Need::Watch,
            V::Rate | V::Join | V::Watch => Need::Never,
        },
        Role::Supervisor => match verb {
            V::Connect | V::Status | V::Accept | V::Leave | V::Request | V::ReadHistory => Need::Role,
            V::Join | V::Watch | V::Close | V::Transfer => Need::Role,
            V::Send | V::Recall | V::Typing => Need::Full,
            V::Note | V::Tag => Need::Watch,
            V::Rate => Need::Never,
        },
        Role::TenantAdmin => match verb {
            V::ReadHistory => Need::Role,
            _ => Need::Never,
        },
        Role::Operator | Role::System | Role::Unknown => Need::Never,
    }
}

/// Everybody but customers.
pub fn is_staff(role: Role) -> bool {
    role != Role::Customer
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBS: [Verb; 16] = [
        Verb::Connect,
        Verb::Send,
        Verb::Note,
        Verb::Recall,
        Verb::Typing,
        Verb::Status,
        Verb::Request,
        Verb::Close,
        Verb::Accept,
        Verb::Transfer,
        Verb::Rate,
        Verb::Tag,
        Verb::Join,
        Verb::Leave,
        Verb::Watch,
        Verb::ReadHistory,
    ];

    #[test]
    fn a_customer_never_gets_more_than_its_own_conversation() {
        for verb in VERBS {
            assert!(
                matches!(need(Role::Customer, verb), Need::Own | Need::Never),
                "{verb:?}"
            );
        }
    }

    #[test]
    fn an_agent_cannot_promote_itself_into_a_conversation() {
        for verb in [Verb::Join, Verb::Watch] {
            assert_eq!(need(Role::Agent, verb), Need::Never);
            assert_eq!(need(Role::Supervisor, verb), Need::Role);
        }
        assert_eq!(need(Role::Supervisor, Verb::Send), Need::Full);
    }

    #[test]
    fn operators_and_strangers_touch_no_conversation() {
        for verb in VERBS {
            for role in [Role::Operator, Role::System, Role::Unknown] {
                assert_eq!(need(role, verb), Need::Never);
            }
        }
    }

    #[test]
    fn every_deed_of_the_protocol_has_a_verb() {
        for deed in [
            "request", "close", "accept", "transfer", "rate", "note", "tag", "join", "leave", "watch", "recall",
        ] {
            assert!(Verb::of_deed(deed).is_some(), "{deed}");
        }
        assert!(Verb::of_deed("connect").is_none());
    }
}
