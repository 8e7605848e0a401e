//! `switchboard chat`: a conversation in the terminal, over the public protocol and nothing else.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use client::{Client, Event, Handle, Incoming, Options, Tls, Transport};
use process::Exit;
use process::logging::clean;
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin};
use wire::frames::{AgentState, ConversationState, Side};

use crate::{Failed, token};

const HELP: &str = "\
  /request [AGENT]   ask for somebody to answer (customer)
  /to CUSTOMER       talk to this customer from now on (agent)
  /away, /available [CAPACITY], /busy   (agent)
  /close             end the session
  /typing            tell the other side that you are writing
  /cut               drop the connection: it comes back by itself
  /refresh TOKEN     a new token, for this connection and later ones
  /help, /quit";

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Customer,
    Agent,
}

/// A terminal client. Type a line to send it; /help shows what else there is.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// Any node: http://, ws:// or tcp://; over TLS https://, wss:// or tls://
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: Vec<String>,
    /// Authorities to believe over TLS, PEM; without it the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How, where the URL leaves a choice: http:// is a stream of events, or long polling
    #[arg(long)]
    poll: bool,
    /// A token; without one, a development token for --role and --user is made
    #[arg(long, env = "SWITCHBOARD_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[arg(long, default_value = "customer")]
    role: Role,
    /// Who you are
    #[arg(long, default_value = "alice")]
    user: String,
    /// The tenant of a development token
    #[arg(long, default_value = "demo")]
    tenant: String,
    /// The secret `switchboard dev` was started with
    #[arg(long, env = "SWITCHBOARD_DEV_SECRET", default_value = token::DEFAULT_SECRET, hide_env_values = true)]
    dev_secret: String,
    /// A name for this terminal: of two connections of one device the newer stays
    #[arg(long)]
    device: Option<String>,
    /// Sessions an agent takes at once
    #[arg(long, default_value_t = 8)]
    capacity: u32,
}

pub fn run(args: ChatArgs) -> Result<Exit, Failed> {
    let role = match args.role {
        Role::Customer => "customer",
        Role::Agent => "agent",
    };
    let token = match &args.token {
        Some(token) => token.clone(),
        None => token::demo_token(&args.tenant, role, &args.user, &args.dev_secret)
            .map_err(|e| Failed::new(Exit::Usage, e))?,
    };
    let tls = args.ca.as_deref().map(Tls::of_file).transpose();
    let tls = tls.map_err(|e| Failed::new(Exit::Usage, e))?;
    crate::runtime(1)?.block_on(async move {
        let options = Options {
            urls: args.url.clone(),
            tls,
            transport: args.poll.then_some(Transport::LongPoll),
            token,
            device: args.device.clone(),
            ..Options::default()
        };
        let (handle, mut incoming) = Client::connect(options);
        let mut chat = Chat {
            handle,
            agent: args.role == Role::Agent,
            me: args.user,
            capacity: args.capacity,
            talking_to: None,
            connected_before: false,
        };
        eprintln!("type a line to send it; /help shows what else there is");
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        chat.talk(&mut incoming, &mut lines).await
    })
}

struct Chat {
    handle: Handle,
    agent: bool,
    me: String,
    capacity: u32,
    /// The conversation an agent writes into.
    talking_to: Option<String>,
    connected_before: bool,
}

impl Chat {
    async fn talk(
        &mut self,
        incoming: &mut tokio::sync::mpsc::Receiver<Incoming>,
        lines: &mut Lines<BufReader<Stdin>>,
    ) -> Result<Exit, Failed> {
        let mut typing_ended = false;
        loop {
            tokio::select! {
                item = incoming.recv() => match item {
                    Some(Incoming::Disconnected { code, reason, retry_in_ms: None }) => {
                        let code = code.map_or(String::new(), |c| format!(" ({c})"));
                        return Err(Failed::new(Exit::Unavailable, format!("the server ended the connection: {}{code}", clean(&reason))));
                    }
                    Some(item) => self.heard(item).await,
                    None => return Ok(Exit::Ok),
                },
                line = lines.next_line(), if !typing_ended => match line {
                    Ok(Some(line)) => if self.typed(line.trim()).await { return Ok(Exit::Ok) },
                    _ => typing_ended = true,
                },
                _ = tokio::time::sleep(std::time::Duration::from_secs(2)), if typing_ended => {
                    let _ = self.handle.close().await;
                    return Ok(Exit::Ok);
                }
            }
        }
    }

    async fn heard(&mut self, item: Incoming) {
        match item {
            Incoming::Connected { user, role, node, .. } => {
                eprintln!("· connected to {} as {} {}", clean(&node), clean(&role), clean(&user));
                if self.agent && !self.connected_before {
                    let _ = self.handle.status(AgentState::Available, Some(self.capacity)).await;
                }
                self.connected_before = true;
            }
            Incoming::Disconnected {
                reason, retry_in_ms, ..
            } => {
                eprintln!(
                    "· disconnected: {}; back in {} ms",
                    clean(&reason),
                    retry_in_ms.unwrap_or(0)
                );
            }
            Incoming::Conversation {
                conversation,
                state,
                agent,
                ..
            } => self.conversation(conversation, state, agent),
            Incoming::Event(event) => self.event(&event).await,
            Incoming::Placed { seq, .. } => eprintln!("  ✓ {seq}"),
            Incoming::Receipt {
                conversation,
                side,
                read,
                ..
            } if read > 0 && (side == Side::Agent) != self.agent => {
                eprintln!("  ✓✓ {}read up to {read}", self.prefix(&conversation));
            }
            Incoming::Typing { conversation, .. } => eprintln!("  {}is writing …", self.prefix(&conversation)),
            Incoming::Queue { position, wait_s, .. } => {
                let wait = wait_s.map_or(String::new(), |s| format!(", about {s} s"));
                eprintln!("· number {position} in line{wait}");
            }
            Incoming::Refused { code, message, .. } | Incoming::Error { code, message, .. } => {
                eprintln!("! {}: {}", code.as_str(), clean(&message));
            }
            Incoming::Reset { last_seq, .. } => {
                eprintln!("· away for long: what was said up to {last_seq} is in the history")
            }
            _ => {}
        }
    }

    fn conversation(&mut self, conversation: String, state: ConversationState, agent: Option<String>) {
        let state = serde_json::to_value(state)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_default();
        let agent = agent.map_or(String::new(), |a| format!(", answered by {}", clean(&a)));
        eprintln!("· {}: {state}{agent}", clean(&conversation));
        if self.agent {
            self.talking_to.get_or_insert(conversation);
        }
    }

    async fn event(&mut self, event: &Event) {
        let who = event.user.clone().or_else(|| event.role.clone()).unwrap_or_default();
        if who == self.me && event.deed.name == "message" {
            println!(
                "{}{} (another device): {}",
                self.prefix(&event.conversation),
                clean(&who),
                shown(event)
            );
        } else if event.deed.name == "message" {
            println!("{}{}: {}", self.prefix(&event.conversation), clean(&who), shown(event));
        } else {
            let value = event.deed.value.as_ref().map_or("", |v| v.get());
            eprintln!(
                "· {}{} {}",
                self.prefix(&event.conversation),
                event.deed.name,
                clean(value)
            );
        }
        let _ = self.handle.read(Some(&event.conversation), event.seq).await;
    }

    fn prefix(&self, conversation: &str) -> String {
        if self.agent {
            format!("[{}] ", clean(conversation))
        } else {
            String::new()
        }
    }

    /// True when the person wants to leave.
    async fn typed(&mut self, line: &str) -> bool {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.trim();
        let to = self.talking_to.clone();
        let sent = match word {
            "" => return false,
            "/quit" => {
                let _ = self.handle.close().await;
                return true;
            }
            "/help" => {
                eprintln!("{HELP}");
                return false;
            }
            "/to" if self.agent => {
                self.talking_to = Some(rest.to_owned());
                return false;
            }
            "/away" => self.handle.status(AgentState::Away, None).await,
            "/busy" => self.handle.status(AgentState::Busy, None).await,
            "/available" => {
                self.handle
                    .status(AgentState::Available, rest.parse().ok().or(Some(self.capacity)))
                    .await
            }
            "/request" => {
                let deed = if rest.is_empty() {
                    serde_json::json!({})
                } else {
                    serde_json::json!({ "agent": rest })
                };
                self.act(to.as_deref(), "request", &deed).await
            }
            "/close" => self.act(to.as_deref(), "close", &serde_json::json!({})).await,
            "/typing" => self.handle.typing(to.as_deref()).await,
            "/cut" => self.handle.cut().await,
            "/refresh" => self.handle.refresh(rest).await,
            _ if self.agent && to.is_none() => {
                eprintln!("! nobody to talk to yet; wait for a customer, or say /to CUSTOMER");
                return false;
            }
            _ => self.handle.say(to.as_deref(), line).await.map(|_| ()),
        };
        sent.is_err()
    }

    async fn act(&self, to: Option<&str>, deed: &str, value: &serde_json::Value) -> Result<(), client::Gone> {
        match serde_json::value::to_raw_value(value) {
            Ok(raw) => self.handle.act(to, deed, raw).await.map(|_| ()),
            Err(_) => Ok(()),
        }
    }
}

/// A text as it is; anything else as its JSON.
fn shown(event: &Event) -> String {
    match event.text() {
        Some(text) => clean(&text).to_string(),
        None => clean(event.body().unwrap_or_default()).to_string(),
    }
}
