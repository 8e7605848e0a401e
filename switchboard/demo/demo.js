// The demo: the protocol as a page needs it (first half; read it to learn how a client works), and the two windows
// (second half). What is heard becomes text on the page, and nothing else: textContent only.

// ---- the protocol: one connection that comes back by itself, an outbox, a place in every conversation ----

const ACK_MS = 300;
const FINAL = 3500; // close codes from here on mean: do not come back

const newId = () => {
  if (crypto.randomUUID) return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
};

/** Calls `heard(name, value)` for what the page shows. */
class Connection {
  constructor({ role, user, heard }) {
    this.role = role;
    this.user = user;
    this.heard = heard;
    this.places = new Map(); // conversation → {last, target, read, acked, ackedRead}
    this.outbox = []; // {id, conversation, frame, written, everWritten}
    this.cut = false;
    this.failures = 0;
    this.status = null;
  }

  place(conversation) {
    if (!this.places.has(conversation)) {
      this.places.set(conversation, { last: null, target: null, read: 0, acked: 0, ackedRead: 0 });
    }
    return this.places.get(conversation);
  }

  /** A token of the development server; a real page gets its own from its own backend. */
  async fetchToken() {
    const answer = await fetch(`demo/token?role=${this.role}&user=${encodeURIComponent(this.user)}`);
    if (!answer.ok) throw new Error(`no token: HTTP ${answer.status}`);
    this.token = (await answer.json()).token;
  }

  /** The newest page of a conversation's history: entries as they were pushed. */
  async history(conversation, limit = 50) {
    const path = `v1/conversations/${encodeURIComponent(conversation)}/events?limit=${limit}`;
    const answer = await fetch(path, { headers: { authorization: `Bearer ${this.token}` } });
    if (!answer.ok) throw new Error(`no history: HTTP ${answer.status}`);
    return answer.json();
  }

  async open() {
    clearTimeout(this.retry);
    this.cut = false;
    this.tell("connecting");
    try {
      if (!this.token) await this.fetchToken();
    } catch (error) {
      return this.again(String(error.message ?? error));
    }
    const url = new URL("v1/connect", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    this.socket = socket;
    socket.onopen = () => this.write({ connect: { token: this.token, ...this.since() } });
    socket.onmessage = ({ data }) => socket === this.socket && this.frame(data);
    socket.onclose = ({ code, reason }) => socket === this.socket && this.closed(code, reason);
  }

  since() {
    const known = [...this.places].filter(([, p]) => p.last !== null).map(([name, p]) => [name, p.last]);
    if (known.length === 0) return {};
    return { since: this.role === "customer" ? known[0][1] : Object.fromEntries(known) };
  }

  /** As a network would: without a word. Stays away until `open`. */
  cutOff() {
    this.cut = true;
    clearTimeout(this.retry);
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    this.down();
    this.tell("cut");
  }

  closed(code, reason) {
    this.socket = null;
    this.down();
    if (this.cut) return;
    if (code === 3005 || code === 3500) this.token = null;
    if (code >= FINAL && code < 4000 && code !== 3500) return this.tell("ended", `${code} ${reason}`);
    this.again(reason || "connection lost");
  }

  down() {
    this.live = false;
    clearTimeout(this.ackTimer);
    this.ackTimer = null;
    for (const place of this.places.values()) place.target = null;
    for (const entry of this.outbox) entry.written = false;
  }

  /** Full jitter: anything up to a bound that doubles. */
  again(why) {
    if (this.cut) return;
    const wait = Math.max(this.goaway ?? 0, 0) + Math.random() * Math.min(500 * 2 ** this.failures, 20000);
    this.goaway = 0;
    this.failures += 1;
    this.tell("waiting", why);
    this.retry = setTimeout(() => this.open(), wait);
  }

  tell(state, why = "") {
    this.heard("connection", { state, why });
  }

  write(frame) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    const text = JSON.stringify(frame);
    this.socket.send(text);
    this.heard("wire", { up: true, text: frame.connect ? text.replace(this.token, "…") : text });
    return true;
  }

  frame(text) {
    this.heard("wire", { up: false, text });
    const [[name, value]] = Object.entries(JSON.parse(text));
    this[`on_${name}`]?.(value);
    this.flush();
    this.ackSoon();
  }

  on_connected(connected) {
    this.live = true;
    this.failures = 0;
    if (this.status) this.write({ status: this.status });
    this.tell("connected", connected.node);
  }

  on_conversation(c) {
    const place = this.place(c.conversation);
    if (place.target === null) {
      place.target = c.last_seq;
      if (this.role === "customer") place.last ??= c.last_seq;
      place.acked = c.recv;
      place.ackedRead = c.read;
    }
    this.heard("conversation", c);
  }

  on_event(event) {
    if (!this.step(event.conversation, event.seq)) return;
    if (event.from?.user === this.user) this.drop(event.id);
    this.heard("event", event);
  }

  on_placed(placed) {
    this.drop(placed.id);
    this.step(placed.conversation, placed.seq);
    this.heard("placed", placed);
  }

  on_sent({ id }) {
    this.drop(id);
    this.heard("sent", { id });
  }

  on_done({ id }) {
    this.drop(id);
  }

  on_error(error) {
    const entry = this.outbox.find((e) => e.id === error.id);
    const passes = ["rate_limited", "overloaded", "unavailable", "unknown", "closing"].includes(error.code);
    if (entry && passes) {
      // From the first message without `sent`, in order, when told.
      for (const e of this.outbox) if (e.conversation === entry.conversation) e.written = false;
      this.quiet = true;
      setTimeout(() => { this.quiet = false; this.flush(); }, error.retry_after_ms ?? 500);
    } else {
      this.drop(error.id);
      this.heard("refused", error);
    }
  }

  on_reset({ conversation, last_seq }) {
    const place = this.place(conversation);
    // One that names less than we have leaves nothing out: what is pushed again behind it is a repeat.
    place.last = Math.max(place.last ?? 0, last_seq);
    this.heard("reset", { conversation, last_seq });
  }

  on_rewind({ conversation, last_seq }) {
    this.place(conversation).last = last_seq;
    this.heard("rewind", { conversation, last_seq });
  }

  on_goaway({ retry_after_ms }) {
    this.goaway = retry_after_ms;
    setTimeout(() => this.socket?.close(), 500);
  }

  on_receipt(receipt) { this.heard("receipt", receipt); }
  on_typing(typing) { this.heard("typing", typing); }
  on_queue(queue) { this.heard("queue", queue); }

  /** Whether this seq is the next. A repeat is left out; a hole is mended by a new connection. */
  step(conversation, seq) {
    const place = this.place(conversation);
    if (place.last !== null && seq <= place.last) return false;
    if (place.last !== null && seq > place.last + 1) {
      this.heard("wire", { note: true, text: `seq ${seq} came after ${place.last}: connecting again` });
      this.socket?.close();
      return false;
    }
    place.last = seq;
    return true;
  }

  drop(id) {
    this.outbox = this.outbox.filter((e) => e.id !== id);
  }

  /** Stays in the outbox until it is known to be in the log. */
  send(conversation, body) {
    const id = newId();
    this.outbox.push({ id, conversation, frame: { send: { id, conversation, body } } });
    this.flush();
    return id;
  }

  act(conversation, deed) {
    const id = newId();
    this.outbox.push({ id, conversation, frame: { act: { id, conversation, ...deed } } });
    this.flush();
  }

  /** What may be in the log already goes again only after we have seen what is there. */
  flush() {
    if (!this.live || this.quiet) return;
    const held = new Set();
    for (const entry of this.outbox) {
      const place = this.place(entry.conversation);
      const behind = place.target === null || (place.last ?? 0) < place.target;
      if (entry.written) continue;
      if (held.has(entry.conversation) || (entry.everWritten && entry.frame.send && behind)) {
        held.add(entry.conversation);
        continue;
      }
      entry.written = entry.everWritten = this.write(entry.frame);
    }
  }

  read(conversation) {
    const place = this.place(conversation);
    place.read = Math.max(place.read, place.last ?? 0);
    this.ackSoon();
  }

  ackSoon() {
    if (this.ackTimer || !this.live) return;
    const news = (p) => p.target !== null && ((p.last ?? 0) > p.acked || p.read > p.ackedRead);
    if (![...this.places.values()].some(news)) return;
    this.ackTimer = setTimeout(() => {
      this.ackTimer = null;
      for (const [conversation, place] of this.places) {
        if (!news(place)) continue;
        place.acked = place.last ?? 0;
        place.ackedRead = place.read;
        this.write({ ack: { conversation, recv: place.acked, read: place.ackedRead } });
      }
    }, ACK_MS);
  }

  typing(conversation) {
    const now = Date.now();
    if (!this.live || now - (this.typedAt ?? 0) < 2000) return;
    this.typedAt = now;
    this.write({ typing: { conversation } });
  }

  setStatus(state) {
    this.status = { state, capacity: 8 };
    if (this.live) this.write({ status: this.status });
  }
}

// ---- the windows ----

const names = new URLSearchParams(location.search);
const FRAMES_MAX = 80;

const make = (tag, className, text) => {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
};

/** One conversation as a window shows it. */
class Shown {
  constructor(name) {
    this.name = name;
    this.log = [];        // {seq, node} by seq
    this.pending = new Map(); // id → node
    this.marks = new Map();   // own messages: node → {seq}
    this.other = { recv: 0, read: 0 };
    this.state = null;
    this.unread = false;
  }
}

class Pane {
  constructor(role, user) {
    this.role = role;
    this.other = role === "customer" ? "agent" : "customer";
    this.shown = new Map();
    this.current = null;
    this.frames = [];
    this.build(user);
    this.connection = new Connection({ role, user, heard: (name, value) => this[`heard_${name}`]?.(value) });
    if (role === "customer") this.select(user);
    else this.redraw();
    this.start();
  }

  build(user) {
    const root = document.getElementById("window").content.firstElementChild.cloneNode(true);
    const find = (selector) => root.querySelector(selector);
    root.id = this.role;
    root.setAttribute("aria-label", `${this.role} ${user}`);
    find(".role").textContent = this.role === "customer" ? "Customer" : "Agent";
    find(".name").textContent = user;
    this.parts = {
      root, connection: find(".connection"), state: find(".state"), deeds: find(".deeds"), nav: find(".conversations"),
      list: find(".conversations ul"), log: find(".log"), typing: find(".typing"), form: find("form"),
      text: find("textarea"), frames: find(".frames"), frameList: find(".frames ol"), count: find(".count"),
    };
    const { form, text, log, frames } = this.parts;
    text.id = `${this.role}-text`;
    find(".write label").htmlFor = text.id;
    find(".write label").textContent = `Message as ${user}`;
    log.setAttribute("aria-label", `Messages, ${this.role}’s window`);
    form.addEventListener("submit", (e) => { e.preventDefault(); this.send(); });
    text.addEventListener("keydown", (e) => {
      if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); this.send(); }
    });
    text.addEventListener("input", () => {
      text.style.height = "auto";
      text.style.height = `${Math.min(text.scrollHeight + 2, 144)}px`;
      if (this.current && text.value) this.connection.typing(this.current.name);
    });
    frames.addEventListener("toggle", () => this.drawFrames());
    // Whoever reads the newest goes on seeing the newest, whatever changes its size.
    this.atEnd = true;
    log.addEventListener("scroll", () => { this.atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80; });
    new ResizeObserver(() => { if (this.atEnd) log.scrollTop = log.scrollHeight; }).observe(log);
    this.buildDeeds();
    document.querySelector("main").append(root);
  }

  buildDeeds() {
    const button = (text, deed) => {
      const node = make("button", "", text);
      node.type = "button";
      node.addEventListener("click", deed);
      this.parts.deeds.append(node);
      return node;
    };
    const here = () => this.current?.name;
    if (this.role === "customer") {
      this.ask = button("Ask for an agent", () => this.connection.act(here(), { request: {} }));
    } else {
      this.available = button("Available", () => this.setStatus("available"));
      this.away = button("Away", () => this.setStatus("away"));
    }
    this.close = button("Close", () => this.connection.act(here(), { close: {} }));
    this.cut = button("Cut connection", () => (this.connection.cut ? this.connection.open() : this.connection.cutOff()));
  }

  async start() {
    // An agent's chosen state outlives connections; the demo's is available from the start.
    if (this.role === "agent") this.setStatus("available");
    try {
      await this.connection.fetchToken();
      if (this.role === "customer") await this.load(this.current);
    } catch (error) {
      this.heard_wire({ note: true, text: String(error.message ?? error) });
    }
    this.connection.open();
  }

  /** History first; live goes on from its end. */
  async load(shown) {
    const page = await this.connection.history(shown.name);
    for (const event of page.events) this.put(shown, event);
    const place = this.connection.place(shown.name);
    if (place.last === null) place.last = page.events.at(-1)?.seq ?? null;
  }

  setStatus(state) {
    this.available.setAttribute("aria-pressed", state === "available");
    this.away.setAttribute("aria-pressed", state === "away");
    // `build` runs before there is a connection.
    this.connection?.setStatus(state);
  }

  of(conversation) {
    if (!this.shown.has(conversation)) {
      const shown = new Shown(conversation);
      this.shown.set(conversation, shown);
      if (this.role === "agent") {
        const item = make("li");
        shown.button = make("button", "", "");
        shown.button.type = "button";
        shown.button.append(make("bdi", "", conversation));
        shown.button.addEventListener("click", () => { this.chosen = true; this.select(conversation); });
        item.append(shown.button);
        this.parts.list.append(item);
        this.parts.nav.hidden = false;
        // What was said before this agent came.
        this.load(shown).catch((error) => this.heard_wire({ note: true, text: String(error.message ?? error) }));
      }
    }
    return this.shown.get(conversation);
  }

  select(conversation) {
    this.current = this.of(conversation);
    this.current.unread = false;
    for (const shown of this.shown.values()) {
      shown.button?.setAttribute("aria-pressed", shown === this.current);
      shown.button?.classList.toggle("unread", shown.unread);
    }
    this.redraw();
    this.readSoon();
  }

  redraw() {
    const { log } = this.parts;
    const nodes = this.current ? [...this.current.log.map((l) => l.node), ...this.current.pending.values()] : [];
    log.replaceChildren(...nodes);
    if (nodes.length === 0) log.append(make("li", "empty", this.emptyText()));
    log.scrollTop = log.scrollHeight;
    this.drawState();
  }

  emptyText() {
    if (this.role === "customer") return "Nothing said yet. Write something: an agent is asked for at once.";
    return this.current ? "Nothing said yet." : "Nobody has asked for this agent yet. Write something as the customer.";
  }

  drawState() {
    const { state } = this.parts;
    const c = this.current?.state;
    const known = {
      idle: ["nobody is asked", ""], wanted: ["an agent is asked for", "warn"], queued: ["waiting in line", "warn"],
      active: [`with ${c?.agent ?? "an agent"}`, "good"], left: ["left a message", "warn"],
    }[c?.state] ?? ["no conversation", ""];
    const place = c?.state === "queued" && this.queue ? `, number ${this.queue.position}` : "";
    state.textContent = known[0] + place;
    state.className = `badge state ${known[1]}`;
    const open = ["wanted", "queued", "active"].includes(c?.state);
    if (this.ask) this.ask.disabled = open;
    this.close.disabled = !open;
    this.parts.text.disabled = !this.current;
    this.parts.form.querySelector("button").disabled = !this.current;
  }

  send() {
    const { text } = this.parts;
    const said = text.value.trim();
    if (!said || !this.current) return;
    const shown = this.current;
    const id = this.connection.send(shown.name, { text: said });
    const node = this.bubble(said, true);
    shown.pending.set(id, node);
    this.mark(node, "○", "waiting");
    this.append(shown, node);
    text.value = "";
    text.style.height = "auto";
  }

  bubble(said, mine) {
    const node = make("li", mine ? "message mine" : "message");
    const bubble = make("span", "bubble", said);
    bubble.dir = "auto";
    node.append(bubble, make("span", "meta"));
    return node;
  }

  mark(node, sign, words, read = false) {
    const meta = node.querySelector(".meta");
    const ticks = make("span", read ? "read" : "", sign);
    ticks.setAttribute("aria-hidden", "true");
    meta.replaceChildren(node.dataset.when ? `${node.dataset.when} ` : "", ticks, make("span", "hidden", words));
  }

  append(shown, node) {
    if (shown !== this.current) return;
    const { log } = this.parts;
    log.querySelector(".empty")?.remove();
    log.append(node);
    if (this.atEnd || node.classList.contains("mine")) log.scrollTop = log.scrollHeight;
  }

  /** Puts an event in its place, once. */
  put(shown, event, known) {
    const at = shown.log.findIndex((l) => l.seq >= event.seq);
    if (at >= 0 && shown.log[at].seq === event.seq) return;
    const mine = event.from?.user === this.connection.user && event.from?.role === this.role;
    let node = known ?? (mine ? shown.pending.get(event.id) : undefined);
    if (!node) node = event.message ? this.bubble(textOf(event.message), mine) : make("li", "happened", this.happened(event));
    if (event.id) shown.pending.delete(event.id);
    node.dataset.when = new Date(event.at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const meta = node.querySelector(".meta");
    if (mine && meta) {
      shown.marks.set(node, event.seq);
      this.tick(shown, node, event.seq);
    } else if (meta) {
      meta.textContent = node.dataset.when;
    }
    const entry = { seq: event.seq, node };
    if (at < 0) {
      shown.log.push(entry);
      if (!node.isConnected) this.append(shown, node);
      if (shown === this.current) for (const waiting of shown.pending.values()) this.parts.log.append(waiting);
    } else {
      shown.log.splice(at, 0, entry);
      if (shown === this.current) this.redraw();
    }
  }

  happened(event) {
    const by = event.from?.user ? ` by ${event.from.user}` : "";
    if (event.assigned) return `${event.assigned.agent ?? "an agent"} has taken the conversation`;
    if (event.opened) return "the conversation was opened";
    if (event.queued) return "waiting for an agent";
    if (event.closed) return `the conversation was closed${by}`;
    if (event.transferred) return `handed on to ${event.transferred.agent ?? event.transferred.group ?? "another agent"}`;
    if (event.hidden) return "a note among agents";
    const name = Object.keys(event).find((k) => !["conversation", "seq", "at", "id", "from"].includes(k));
    return `${name ?? "something"}${by}`;
  }

  tick(shown, node, seq) {
    if (seq <= shown.other.read) this.mark(node, `✓✓ ${seq}`, "read", true);
    else if (seq <= shown.other.recv) this.mark(node, `✓✓ ${seq}`, "arrived");
    else this.mark(node, `✓ ${seq}`, "in the conversation");
  }

  heard_connection({ state, why }) {
    const words = {
      connecting: ["connecting …", "warn"], connected: ["connected", "good"], waiting: [`coming back: ${why}`, "warn"],
      cut: ["cut off", "bad"], ended: [`ended: ${why}`, "bad"],
    }[state];
    this.parts.connection.textContent = words[0];
    this.parts.connection.className = `badge connection ${words[1]}`;
    this.cut.textContent = state === "cut" ? "Connect again" : "Cut connection";
    this.cut.setAttribute("aria-pressed", state === "cut");
  }

  heard_conversation(c) {
    const shown = this.of(c.conversation);
    shown.state = c;
    // The customer beside it, unless the person has chosen another.
    if (!this.current || (!this.chosen && c.conversation === customer && shown !== this.current)) this.select(c.conversation);
    else if (shown === this.current) this.drawState();
  }

  heard_event(event) {
    const shown = this.of(event.conversation);
    this.put(shown, event);
    if (event.from?.user !== this.connection.user) this.parts.typing.textContent = "";
    if (shown !== this.current) {
      shown.unread = true;
      shown.button?.classList.add("unread");
    }
    if (!this.visible()) tabOf(this.role).querySelector(".dot").hidden = false;
    this.readSoon();
  }

  heard_placed({ id, conversation, seq, at }) {
    const shown = this.of(conversation);
    const node = shown.pending.get(id);
    if (node) this.put(shown, { conversation, seq, at, id, from: { role: this.role, user: this.connection.user }, message: {} }, node);
  }

  heard_sent({ id }) {
    for (const shown of this.shown.values()) {
      const node = shown.pending.get(id);
      if (node) this.mark(node, "✓", "in the log");
    }
  }

  heard_refused({ id, code, message }) {
    for (const shown of this.shown.values()) {
      const node = shown.pending.get(id);
      if (!node) continue;
      node.classList.add("refused");
      node.querySelector(".meta").className = "meta refused";
      node.querySelector(".meta").textContent = `refused: ${message || code}`;
      return;
    }
    this.heard_wire({ note: true, text: `${code}: ${message}` });
  }

  heard_receipt({ conversation, side, recv, read }) {
    if (side !== this.other) return;
    const shown = this.of(conversation);
    shown.other = { recv: Math.max(recv, shown.other.recv), read: Math.max(read, shown.other.read) };
    for (const [node, seq] of shown.marks) this.tick(shown, node, seq);
  }

  heard_typing({ conversation, from }) {
    if (conversation !== this.current?.name || from?.user === this.connection.user) return;
    this.parts.typing.textContent = `${from?.user ?? from?.role ?? "somebody"} is writing …`;
    clearTimeout(this.typingTimer);
    this.typingTimer = setTimeout(() => { this.parts.typing.textContent = ""; }, 4000);
  }

  heard_queue(queue) {
    this.queue = queue;
    this.drawState();
  }

  heard_reset({ conversation }) {
    this.load(this.of(conversation)).catch(() => {});
  }

  heard_rewind({ conversation, last_seq }) {
    const shown = this.of(conversation);
    shown.log = shown.log.filter((l) => l.seq <= last_seq);
    if (shown === this.current) this.redraw();
  }

  heard_wire(frame) {
    this.frames.unshift({ ...frame, at: new Date().toLocaleTimeString() });
    this.frames.length = Math.min(this.frames.length, FRAMES_MAX);
    this.drawFrames();
  }

  drawFrames() {
    const { frames, frameList, count } = this.parts;
    count.textContent = this.frames.length ? `(last ${this.frames.length})` : "";
    if (!frames.open) return;
    const sign = (f) => (f.note ? "!" : f.up ? "↑" : "↓");
    frameList.replaceChildren(...this.frames.map((f) => {
      const item = make("li", f.note ? "note" : f.up ? "up" : "down", `${sign(f)} ${f.at} ${f.text}`);
      item.dir = "ltr";
      return item;
    }));
  }

  visible() {
    return document.visibilityState === "visible" && this.parts.root.offsetParent !== null;
  }

  /** Read is what a person had on the screen for a moment. */
  readSoon() {
    clearTimeout(this.readTimer);
    this.readTimer = setTimeout(() => {
      if (this.visible() && this.current) this.connection.read(this.current.name);
    }, 900);
  }
}

function textOf(body) {
  if (typeof body.text === "string") return body.text;
  const [kind] = Object.keys(body);
  return `[${kind ?? "empty"}] ${JSON.stringify(body[kind] ?? {})}`;
}

const tabOf = (role) => document.getElementById(`tab-${role}`);

function tabs(windows) {
  const show = (role, focus) => {
    for (const w of windows) {
      const selected = w.role === role;
      w.parts.root.classList.toggle("shown", selected);
      tabOf(w.role).setAttribute("aria-selected", selected);
      tabOf(w.role).tabIndex = selected ? 0 : -1;
      if (selected) {
        tabOf(role).querySelector(".dot").hidden = true;
        if (focus) tabOf(role).focus();
        w.parts.log.scrollTop = w.parts.log.scrollHeight;
        w.readSoon();
      }
    }
  };
  for (const w of windows) {
    tabOf(w.role).addEventListener("click", () => show(w.role, false));
    tabOf(w.role).addEventListener("keydown", (e) => {
      if (e.key === "ArrowLeft" || e.key === "ArrowRight") show(w.other, true);
    });
  }
  document.addEventListener("visibilitychange", () => windows.forEach((w) => w.readSoon()));
  show("customer", false);
}

const customer = names.get("customer") || "alice";
const agent = names.get("agent") || "bo";
const windows = [new Pane("customer", customer), new Pane("agent", agent)];
tabs(windows);
