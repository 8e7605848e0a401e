//! Right frames at the wrong time, or from the wrong person. Agents stay away and accept by hand, so that no row is given
//! another row's customers.

use serde_json::{Value, json};

use crate::envelope::taken;
use crate::rows::Row;
use crate::server::Place;
use crate::ws::{Ws, text};
use crate::{Outcome, expect, same, token};

/// A customer and the agent that has accepted it.
struct Pair {
    customer: Ws,
    agent: Ws,
    customer_name: String,
    agent_name: String,
}

impl Pair {
    fn new(place: &Place) -> Result<Self, String> {
        let (customer_name, agent_name) = (token::somebody("customer"), token::somebody("agent"));
        let mut agent = Ws::connected(place, "agent", &agent_name)?;
        agent.say(&json!({ "status": { "id": "s", "state": "away", "capacity": 1 } }));
        agent.until(&["done"])?;
        let mut customer = Ws::customer(place, &customer_name)?;
        wait_for(&mut customer, &agent_name)?;
        let mut pair = Pair {
            customer,
            agent,
            customer_name,
            agent_name,
        };
        pair.agent.say(&pair.act("a", "accept", json!({})));
        done(&mut pair.agent)?;
        Ok(pair)
    }

    /// An act of the agent's on the customer's conversation.
    fn act(&self, id: &str, deed: &str, value: Value) -> Value {
        json!({ "act": { "id": id, "conversation": self.customer_name, deed: value } })
    }

    fn send(&self, id: &str) -> Value {
        json!({ "send": { "id": id, "conversation": self.customer_name, "body": { "text": "x" } } })
    }
}

/// The customer asks for this agent and nobody else, and stands in line.
fn wait_for(customer: &mut Ws, agent: &str) -> Outcome {
    customer.say(&json!({ "act": { "id": "r", "request": { "agent": agent, "only": true } } }));
    done(customer)
}

fn done(ws: &mut Ws) -> Outcome {
    let value = ws.until(&["done", "error"])?;
    expect(value.get("done").is_some(), || format!("{value} where done is right"))
}

fn error(ws: &mut Ws, code: &str) -> Outcome {
    let value = ws.until(&["done", "error", "sent", "pong"])?;
    expect(value["error"]["code"] == code, || {
        format!("{value} where the error {code} is right")
    })
}

fn sent(ws: &mut Ws) -> Outcome {
    ws.until(&["sent", "error"])
        .and_then(|v| expect(v.get("sent").is_some(), || format!("{v} where sent is right")))?;
    taken();
    Ok(())
}

fn row(name: &str, check: impl Fn(&Place) -> Outcome + Send + Sync + 'static) -> Row {
    Row::new(format!("order: {name}"), check)
}

/// Before and instead of a token: nothing of it may reach the log.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, frame) in [
        ("a send", r#"{"send":{"id":"1","body":{"text":"x"}}}"#),
        ("an act", r#"{"act":{"id":"1","close":{}}}"#),
        ("an ack", r#"{"ack":{"recv":1}}"#),
        ("a status", r#"{"status":{"state":"available"}}"#),
        ("typing", r#"{"typing":{}}"#),
        ("a refresh", r#"{"refresh":{"token":"x"}}"#),
        ("a ping", r#"{"ping":{}}"#),
    ] {
        rows.push(row(&format!("{name} before connect closes at once"), move |place| {
            let mut ws = Ws::open(place)?;
            let connect = json!({ "connect": { "token": token::of("customer", &token::somebody("late")) } });
            ws.raw.send(&[text(frame), text(&connect.to_string())].concat());
            ws.closed(3503)
        }));
    }
    rows.push(row(
        "garbage before connect is answered, and the tenth closes",
        |place| {
            let mut ws = Ws::open(place)?;
            for _ in 0..9 {
                ws.raw.send(&text("x"));
                error(&mut ws, "bad_frame")?;
            }
            ws.raw.send(&text("x"));
            ws.closed(3503)
        },
    ));
    rows.push(row("connect after garbage is heard", |place| {
        let mut ws = Ws::open(place)?;
        ws.raw.send(&text("x"));
        ws.say(&json!({ "connect": { "token": token::of("customer", &token::somebody("patient")) } }));
        ws.until(&["connected"])?;
        ws.lives()
    }));
    rows.push(row("connect twice, the second time as somebody else", |place| {
        let mut ws = Ws::customer(place, &token::somebody("first"))?;
        ws.say(&json!({ "connect": { "token": token::of("agent", &token::somebody("second")) } }));
        error(&mut ws, "bad_frame")?;
        ws.lives()
    }));
    for (name, role, tenant) in [
        ("another user's", "customer", "demo"),
        ("another role's", "agent", "demo"),
        ("another tenant's", "customer", crate::upgrade::SHOP),
    ] {
        rows.push(row(&format!("a refresh with {name} token"), move |place| {
            let user = token::somebody("self");
            let mut ws = Ws::customer(place, &user)?;
            let sub = if name.contains("user") {
                token::somebody("other")
            } else {
                user
            };
            let claims = json!({ "tenant": tenant, "sub": sub, "role": role, "exp": 4_102_444_800u64 });
            ws.say(&json!({ "refresh": { "token": token::sign(&claims) } }));
            error(&mut ws, "forbidden")?;
            ws.lives()
        }));
    }
    rows.push(row("a refresh with garbage", |place| {
        let mut ws = Ws::customer(place, &token::somebody("self"))?;
        ws.say(&json!({ "refresh": { "token": "x.y.z" } }));
        error(&mut ws, "forbidden")?;
        ws.lives()
    }));
    rows.push(row("the tenth bad frame closes, between good ones too", |place| {
        let mut ws = Ws::customer(place, &token::somebody("clumsy"))?;
        for _ in 0..9 {
            ws.raw.send(&text("x"));
            error(&mut ws, "bad_frame")?;
            ws.lives()?;
        }
        ws.raw.send(&text("x"));
        ws.closed(3503)
    }));
    rows
}

/// With agents, whose coming and going is in the log.
pub fn staff_rows() -> Vec<Row> {
    vec![
        row("an agent sends where it is not assigned", |place| {
            let mut ws = Ws::connected(place, "agent", &token::somebody("stranger"))?;
            for conversation in ["nobody", "../x", "a b", "爱丽丝"] {
                ws.say(&json!({ "send": { "id": "1", "conversation": conversation, "body": { "text": "x" } } }));
                error(&mut ws, "not_assigned")?;
            }
            for conversation in ["", "a\nb", "\0", &"x".repeat(129)] {
                ws.say(&json!({ "send": { "id": "1", "conversation": conversation, "body": { "text": "x" } } }));
                error(&mut ws, "bad_frame")?;
            }
            ws.say(&json!({ "send": { "id": "1", "body": { "text": "x" } } }));
            error(&mut ws, "bad_frame")
        }),
        row("an agent's acts on another's conversation", |place| {
            let pair = Pair::new(place)?;
            let mut other = Ws::connected(place, "agent", &token::somebody("other"))?;
            for (deed, code) in [
                ("close", "not_assigned"),
                ("transfer", "not_assigned"),
                ("note", "not_assigned"),
                ("tag", "not_assigned"),
                ("join", "forbidden"),
                ("watch", "forbidden"),
                ("rate", "forbidden"),
                ("accept", "conflict"),
            ] {
                other.say(&pair.act(deed, deed, json!({})));
                error(&mut other, code).map_err(|why| format!("{deed}: {why}"))?;
            }
            Ok(())
        }),
        row("an acceptance of what does not wait", |place| {
            let mut ws = Ws::connected(place, "agent", &token::somebody("eager"))?;
            ws.say(&json!({ "act": { "id": "1", "conversation": token::somebody("calm"), "accept": {} } }));
            error(&mut ws, "not_found")
        }),
        row("an acceptance twice changes nothing", |place| {
            let mut pair = Pair::new(place)?;
            for id in ["b", "c"] {
                let again = pair.act(id, "accept", json!({}));
                pair.agent.say(&again);
                done(&mut pair.agent)?;
            }
            let first = pair.send("1");
            pair.agent.say(&first);
            sent(&mut pair.agent)
        }),
        row("an acceptance above one's capacity", |place| {
            let mut pair = Pair::new(place)?;
            let mut second = Ws::customer(place, &token::somebody("second"))?;
            let name = token::somebody("third");
            let mut third = Ws::customer(place, &name)?;
            wait_for(&mut second, &pair.agent_name)?;
            wait_for(&mut third, &pair.agent_name)?;
            pair.agent
                .say(&json!({ "act": { "id": "x", "conversation": name, "accept": {} } }));
            error(&mut pair.agent, "conflict")
        }),
        row("an acceptance of whom another was asked for", |place| {
            let name = token::somebody("choosy");
            let mut customer = Ws::customer(place, &name)?;
            wait_for(&mut customer, &token::somebody("chosen"))?;
            let mut other = Ws::connected(place, "agent", &token::somebody("other"))?;
            other.say(&json!({ "status": { "id": "s", "state": "away", "capacity": 5 } }));
            done(&mut other)?;
            other.say(&json!({ "act": { "id": "x", "conversation": name, "accept": {} } }));
            error(&mut other, "conflict")
        }),
        row("a transfer to oneself, to nobody, to the absent, to garbage", |place| {
            let mut pair = Pair::new(place)?;
            let own = pair.agent_name.clone();
            for (i, to) in [
                json!({ "agent": own }),
                json!({ "agent": "never-seen" }),
                json!({ "agent": "" }),
                json!({ "agent": "other/bo" }),
                json!({}),
            ]
            .into_iter()
            .enumerate()
            {
                let act = pair.act(&format!("t{i}"), "transfer", to);
                pair.agent.say(&act);
                error(&mut pair.agent, "conflict")?;
            }
            for (i, to) in [json!({ "agent": 1 }), json!({ "agent": [] }), json!({ "note": {} })]
                .into_iter()
                .enumerate()
            {
                let act = pair.act(&format!("u{i}"), "transfer", to);
                pair.agent.say(&act);
                error(&mut pair.agent, "bad_frame")?;
            }
            let still = pair.send("1");
            pair.agent.say(&still);
            sent(&mut pair.agent)
        }),
        row("deeds of the desk with odd values", |place| {
            let mut pair = Pair::new(place)?;
            pair.agent.raw.send(&text(&format!(
                r#"{{"act":{{"id":"h","conversation":"{}","transfer":{{"agent":"\ud800"}}}}}}"#,
                pair.customer_name
            )));
            error(&mut pair.agent, "bad_frame")?;
            pair.customer
                .raw
                .send(&text(r#"{"act":{"id":"g","request":{"group":1}}}"#));
            error(&mut pair.customer, "bad_frame")?;
            pair.customer
                .raw
                .send(&text(r#"{"act":{"id":"f","request":{"only":"yes"}}}"#));
            error(&mut pair.customer, "bad_frame")?;
            pair.customer
                .raw
                .send(&text(r#"{"act":{"id":"e","rate":{"stars":1e999,"x":"\ud800"}}}"#));
            done(&mut pair.customer)
        }),
        row("two transfers at once: the second comes too late", |place| {
            let mut pair = Pair::new(place)?;
            let others: Vec<(String, Ws)> = (0..2)
                .map(|_| {
                    let name = token::somebody("taker");
                    let mut ws = Ws::connected(place, "agent", &name)?;
                    // Available for one moment only: nobody else waits for anybody here.
                    ws.say(&json!({ "status": { "id": "s", "state": "available", "capacity": 1 } }));
                    done(&mut ws)?;
                    Ok((name, ws))
                })
                .collect::<Result<_, String>>()?;
            let frames: Vec<u8> = others
                .iter()
                .flat_map(|(name, _)| text(&pair.act(name, "transfer", json!({ "agent": name })).to_string()))
                .collect();
            pair.agent.raw.send(&frames);
            let mut codes = Vec::new();
            for _ in 0..2 {
                let value = pair.agent.until(&["done", "error"])?;
                codes.push(value["error"]["code"].as_str().unwrap_or("done").to_owned());
            }
            codes.sort();
            let right = codes == ["done", "not_assigned"] || codes == ["conflict", "done"];
            expect(right, || {
                format!("{codes:?} where one transfer holds and the other does not")
            })
        }),
        row("one id for two deeds: the first one stands", |place| {
            let mut pair = Pair::new(place)?;
            for (deed, value) in [("tag", json!({ "a": 1 })), ("close", json!({}))] {
                let act = pair.act("same", deed, value);
                pair.agent.say(&act);
            }
            done(&mut pair.agent)?;
            let still = pair.send("1");
            pair.agent.say(&still);
            sent(&mut pair.agent)
        }),
        row("a send to a conversation that was closed", |place| {
            let mut pair = Pair::new(place)?;
            let close = pair.act("c", "close", json!({}));
            pair.agent.say(&close);
            done(&mut pair.agent)?;
            let late = pair.send("1");
            // The node hears of it with the event that detaches it, or asks.
            for _ in 0..50 {
                pair.agent.say(&late);
                let value = pair.agent.until(&["sent", "error"])?;
                if value["error"]["code"] == "not_assigned" {
                    return Ok(());
                }
                taken();
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            Err("an agent goes on speaking in a closed conversation".into())
        }),
        row(
            "an ack that is taken back, and one for what was never written",
            |place| {
                let mut pair = Pair::new(place)?;
                let hello = pair.send("1");
                pair.agent.say(&hello);
                sent(&mut pair.agent)?;
                let event = loop {
                    let value = pair.customer.until(&["event"])?;
                    if value["event"].get("message").is_some() {
                        break value["event"]["seq"].as_u64().unwrap_or_default();
                    }
                };
                for (recv, read) in [(u64::MAX, u64::MAX), (1, 0), (0, 0)] {
                    pair.customer.say(&json!({ "ack": { "recv": recv, "read": read } }));
                }
                let receipt = loop {
                    let value = pair.agent.until(&["receipt"])?;
                    if value["receipt"]["side"] == "customer" {
                        break value["receipt"].clone();
                    }
                };
                same("recv", &receipt["recv"].as_u64(), &Some(event))?;
                same("read", &receipt["read"].as_u64(), &Some(event))?;
                let mut again = Ws::customer(place, &pair.customer_name)?;
                let shown = again.until(&["conversation"])?;
                same("recv after all", &shown["conversation"]["recv"].as_u64(), &Some(event))
            },
        ),
        row("two connections of one device: the older is closed for good", |place| {
            let user = token::somebody("phone");
            let connect = json!({ "connect": { "token": token::of("customer", &user), "device": "phone" } });
            let mut first = Ws::open(place)?;
            first.say(&connect);
            first.until(&["conversation"])?;
            let mut second = Ws::open(place)?;
            second.say(&connect);
            second.until(&["conversation"])?;
            first.closed(3501)?;
            second.lives()
        }),
    ]
}
