"""A second opinion on the protocol: Python's `websockets` talks to a running `switchboard dev`.

Nothing here knows the server's code; it follows the published frames. Run by `tests/independent/run URL BIN`.
"""

import asyncio
import json
import os
import subprocess
import unittest
import urllib.error
import urllib.parse
import urllib.request
import uuid

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

URL = os.environ["SWITCHBOARD_URL"].rstrip("/")
BIN = os.environ["SWITCHBOARD_BIN"]
WS = URL.replace("http", "ws", 1) + "/v1/connect"
PATIENCE_S = 10
BODY_BYTES_MAX = 65_536
FRAME_BYTES_MAX = 73_728


def token(role, user):
    command = [BIN, "token", "--tenant", "demo", "--role", role, "--user", user]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def name(kind):
    """Each test has people of its own."""
    return f"{kind}-{uuid.uuid4().hex[:10]}"


def send_frame(id, body, conversation=None):
    """Made by hand, so that the body's bytes are exactly these."""
    place = f',"conversation":{json.dumps(conversation)}' if conversation else ""
    return f'{{"send":{{"id":"{id}"{place},"body":{body}}}}}'


def inside(frame, member):
    """The raw text of the last member of an event's frame: what stands behind `"member":`."""
    return frame[frame.index(f'"{member}":') + len(member) + 3 : -2]


class Client:
    """One connection; keeps every frame as text."""

    def __init__(self, role, user, **hello):
        self.role, self.user, self.hello = role, user, hello
        self.frames = []
        self.seen = 0

    async def __aenter__(self):
        self.ws = await connect(WS, max_size=1 << 21, ping_interval=None, compression=None)
        hello = {"token": token(self.role, self.user), **self.hello}
        await self.ws.send(json.dumps({"connect": hello}))
        self.connected = await self.until("connected")
        return self

    async def __aexit__(self, *_):
        await self.ws.close()

    async def say(self, frame):
        await self.ws.send(frame if isinstance(frame, str) else json.dumps(frame))

    async def next(self):
        text = await asyncio.wait_for(self.ws.recv(), PATIENCE_S)
        assert isinstance(text, str), "frames are text"
        self.frames.append(text)
        value = json.loads(text)
        assert len(value) == 1, f"not externally tagged: {text}"
        return text, *next(iter(value.items()))

    async def until(self, kind, where=lambda value: True):
        """The first frame of that kind that fits, from the last one taken on; others are kept and passed over."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                text, found, value = await self.next()
                if found == kind and where(value):
                    self.text = text
                    return value

    async def send(self, text, conversation=None, id=None):
        id = id or str(uuid.uuid4())
        await self.say(send_frame(id, json.dumps({"text": text}), conversation))
        return id

    async def placed(self, id):
        return await self.until("placed", lambda p: p["id"] == id)

    async def event(self, id):
        return await self.until("event", lambda e: e.get("id") == id)

    async def closed(self):
        """Reads to the end; the close code."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    self.frames.append(await self.ws.recv())
        except ConnectionClosed as end:
            return end.rcvd.code if end.rcvd else None


class Pair:
    """A customer and the agent it has asked for."""

    async def __aenter__(self):
        # Room for whoever waits already: they come first, and this customer must still find a place.
        self.agent = await Client("agent", name("agent")).__aenter__()
        await self.agent.say({"status": {"state": "available", "capacity": 1000}})
        self.customer = await Client("customer", name("customer")).__aenter__()
        id = str(uuid.uuid4())
        await self.customer.say({"act": {"id": id, "request": {"agent": self.agent.user, "only": True}}})
        mine = lambda c: c["state"] == "active" and c.get("agent") == self.agent.user
        for side in (self.customer, self.agent):
            await side.until("conversation", lambda c: c["conversation"] == self.customer.user and mine(c))
        return self.customer, self.agent

    async def __aexit__(self, *_):
        await self.customer.__aexit__()
        await self.agent.__aexit__()


def history(role, user, conversation, **query):
    path = f"/v1/conversations/{urllib.parse.quote(conversation, safe='')}/events?{urllib.parse.urlencode(query)}"
    request = urllib.request.Request(URL + path, headers={"authorization": f"Bearer {token(role, user)}"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        return answer.read().decode()


async def stored(client, conversation, last_seq):
    """The whole history as text, once the store has caught up."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            text = await asyncio.to_thread(history, client.role, client.user, conversation, after=0, limit=1000)
            if json.loads(text)["last_seq"] >= last_seq:
                return text
            await asyncio.sleep(0.1)


class Talking(unittest.IsolatedAsyncioTestCase):
    async def test_a_message_is_sent_placed_and_arrives(self):
        async with Pair() as (customer, agent):
            id = await customer.send("hello")
            kinds = set()
            while kinds != {"sent", "placed"}:
                _, kind, value = await customer.next()
                if kind in ("sent", "placed"):
                    self.assertEqual(value["id"], id)
                    kinds.add(kind)
                    if kind == "placed":
                        placed = value
            event = await agent.event(id)
            self.assertEqual(event["message"], {"text": "hello"})
            self.assertEqual(event["from"], {"role": "customer", "user": customer.user})
            self.assertEqual((event["seq"], event["at"]), (placed["seq"], placed["at"]))
            back = await agent.send("hello to you", customer.user)
            self.assertEqual((await customer.event(back))["seq"], event["seq"] + 1)

    async def test_bodies_come_back_byte_for_byte(self):
        bodies = [
            '{"text":"h\\u00e9llo \\ud83d\\ude00 \\/"}',
            '{ "text" :  "spaces\\tkept" , "n":1e400 , "m":-0 , "big":123456789012345678901234567890 }',
            '{"custom":{"unknown":[1.10,1.1e1,{"deep":null}],"dup":1,"dup":2}}',
            '{"text":"\u05e9\u05dc\u05d5\u05dd \u4f60\u597d \U0001f600 \u202eRTL\u202c"}',
            '{"text":"}}"}',
        ]
        async with Pair() as (customer, agent):
            seqs = []
            for body in bodies:
                id = str(uuid.uuid4())
                await customer.say(send_frame(id, body))
                seqs.append((await agent.event(id))["seq"])
                self.assertEqual(inside(agent.text, "message"), body)
            text = await stored(customer, customer.user, seqs[-1])
            for body in bodies:
                self.assertIn(f'"message":{body}}}', text)

    async def test_seqs_are_consecutive_for_both_sides(self):
        async with Pair() as (customer, agent):
            for n in range(20):
                await customer.send(f"c{n}")
                await agent.send(f"a{n}", customer.user)
            last = await customer.send("last")
            await agent.event(last)
            await customer.placed(last)
            for side in (customer, agent):
                seqs = []
                for frame in side.frames:
                    (kind, value), = json.loads(frame).items()
                    if kind in ("event", "placed") and value["conversation"] == customer.user:
                        seqs.append(value["seq"])
                self.assertEqual(seqs, list(range(seqs[0], seqs[0] + len(seqs))), side.role)

    async def test_the_same_id_again_is_the_same_message(self):
        async with Pair() as (customer, agent):
            id = await customer.send("once")
            first = await customer.placed(id)
            await customer.send("twice?", id=id)
            again = await customer.placed(id)
            self.assertEqual((again["seq"], again["at"]), (first["seq"], first["at"]))
            after = await customer.send("after")
            event = await agent.event(after)
            self.assertEqual(event["seq"], first["seq"] + 1)
            events = [json.loads(f)["event"] for f in agent.frames if f.startswith('{"event"')]
            texts = [e["message"]["text"] for e in events if e["conversation"] == customer.user and "message" in e]
            self.assertEqual(texts, ["once", "after"])

    async def test_receipts_and_typing_reach_the_other_side(self):
        async with Pair() as (customer, agent):
            id = await customer.send("read me")
            seq = (await agent.event(id))["seq"]
            await agent.say({"typing": {"conversation": customer.user}})
            typing = await customer.until("typing")
            self.assertEqual(typing["from"]["user"], agent.user)
            await agent.say({"ack": {"conversation": customer.user, "recv": seq, "read": seq}})
            receipt = await customer.until("receipt", lambda r: r["side"] == "agent" and r["read"] >= seq)
            self.assertEqual((receipt["recv"], receipt["read"]), (seq, seq))


class Coming_back(unittest.IsolatedAsyncioTestCase):
    async def test_since_brings_what_was_missed_in_order_and_once(self):
        async with Pair() as (customer, agent):
            id = await customer.send("before")
            seq = (await customer.placed(id))["seq"]
            await customer.ws.close()
            missed = [await agent.send(f"missed {n}", customer.user) for n in range(30)]
            await agent.placed(missed[-1])
            async with Client("customer", customer.user, since=seq) as back:
                events = [await back.until("event") for _ in missed]
                self.assertEqual([e["id"] for e in events], missed)
                self.assertEqual([e["seq"] for e in events], list(range(seq + 1, seq + 31)))
                live = await agent.send("live", customer.user)
                self.assertEqual((await back.until("event"))["id"], live)

    async def test_an_agent_comes_back_to_its_place(self):
        async with Pair() as (customer, agent):
            id = await customer.send("before")
            seq = (await agent.event(id))["seq"]
            await agent.ws.close()
            missed = [await customer.send(f"missed {n}") for n in range(10)]
            await customer.placed(missed[-1])
            async with Client("agent", agent.user, since={customer.user: seq}) as back:
                ours = lambda e: e["conversation"] == customer.user
                events = [await back.until("event", ours) for _ in missed]
                self.assertEqual([e["id"] for e in events], missed)

    async def test_without_since_it_is_live_and_history_has_the_rest(self):
        async with Pair() as (customer, agent):
            ids = [await customer.send(str(n)) for n in range(5)]
            placed = await customer.placed(ids[-1])
            async with Client("customer", customer.user) as other:
                conversation = await other.until("conversation")
                self.assertGreaterEqual(conversation["last_seq"], placed["seq"])
                live = await agent.send("live", customer.user)
                first = await other.until("event")
                self.assertEqual(first["id"], live, "nothing of what came before is pushed")
            page = json.loads(await stored(customer, customer.user, placed["seq"]))
            self.assertEqual([e["seq"] for e in page["events"]], list(range(1, len(page["events"]) + 1)))
            self.assertEqual([e["id"] for e in page["events"] if "message" in e][:5], ids)

    async def test_a_since_from_the_future_is_wound_back(self):
        customer = name("customer")
        async with Client("customer", customer, since=1000) as client:
            self.assertEqual((await client.until("rewind"))["last_seq"], 0)
            id = await client.send("from the start")
            self.assertEqual((await client.placed(id))["conversation"], customer)

    async def test_the_older_of_two_connections_of_a_device_is_replaced(self):
        user = name("customer")
        async with Client("customer", user, device="phone") as older:
            async with Client("customer", user, device="phone") as newer:
                self.assertEqual(await older.closed(), 3501)
                await newer.placed(await newer.send("still here"))

    async def test_ones_other_devices_get_the_whole_event(self):
        user = name("customer")
        async with Client("customer", user, device="phone") as phone, Client("customer", user, device="web") as web:
            await web.until("conversation")
            id = await phone.send("from the phone")
            self.assertEqual((await web.event(id))["message"], {"text": "from the phone"})


class Refusals(unittest.IsolatedAsyncioTestCase):
    async def error(self, client, frame):
        await client.say(frame)
        return await client.until("error")

    async def test_bad_frames_are_answered_and_the_connection_goes_on(self):
        async with Client("customer", name("customer")) as client:
            for frame in ("{", "[]", "42", '{"nobody":{}}', '{"ping":{},"ack":{}}', "{}"):
                self.assertEqual((await self.error(client, frame))["code"], "bad_frame", frame)
            await client.say({"ping": {}})
            await client.until("pong")

    async def test_the_tenth_bad_frame_closes(self):
        async with Client("customer", name("customer")) as client:
            for _ in range(10):
                await client.say("{")
            self.assertEqual(await client.closed(), 3503)

    async def test_a_body_must_be_one_object_of_known_kind(self):
        async with Client("customer", name("customer")) as client:
            for body in ('"text"', "[1]", "7", "null"):
                id = str(uuid.uuid4())
                error = await self.error(client, send_frame(id, body))
                self.assertIn(error["code"], ("invalid_body", "bad_frame"), body)

    async def test_a_body_at_the_limit_passes_and_one_beyond_does_not(self):
        async with Client("customer", name("customer")) as client:
            fits = "x" * (BODY_BYTES_MAX - len('{"text":""}'))
            id = str(uuid.uuid4())
            await client.say(send_frame(id, '{"text":"%s"}' % fits))
            await client.placed(id)
            id = str(uuid.uuid4())
            error = await self.error(client, send_frame(id, '{"text":"%sx"}' % fits))
            self.assertEqual((error["code"], error.get("id")), ("too_large", id))

    async def test_an_oversize_frame_closes(self):
        async with Client("customer", name("customer")) as client:
            await client.say('{"ping":{"x":"%s"}}' % ("y" * (FRAME_BYTES_MAX + 10)))
            self.assertIn(await client.closed(), (3505, 1009))

    async def test_an_id_that_is_too_long_or_empty_is_refused(self):
        async with Client("customer", name("customer")) as client:
            for id in ("", "x" * 65):
                error = await self.error(client, send_frame(id, '{"text":"a"}'))
                self.assertIn(error["code"], ("bad_frame", "too_large"), id)

    async def test_a_customer_cannot_speak_in_anothers_conversation(self):
        async with Client("customer", name("customer")) as client:
            id = await client.send("hello?", name("customer"))
            error = await client.until("error")
            self.assertEqual((error["code"], error["id"]), ("forbidden", id))

    async def test_an_agent_that_is_not_assigned_cannot_speak(self):
        async with Pair() as (customer, _), Client("agent", name("agent")) as stranger:
            await stranger.send("hello?", customer.user)
            error = await stranger.until("error")
            self.assertIn(error["code"], ("not_assigned", "forbidden"))

    async def test_bad_tokens_close_with_their_code(self):
        good = token("customer", name("customer"))
        head, claims, signature = good.split(".")
        flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
        none = "eyJhbGciOiJub25lIiwia2lkIjoiZGV2In0"
        for bad in ("", "nonsense", f"{head}.{claims}.{flipped}", f"{none}.{claims}.", f"{head}.{claims}"):
            async with connect(WS, compression=None) as ws:
                await ws.send(json.dumps({"connect": {"token": bad}}))
                with self.assertRaises(ConnectionClosed) as closed:
                    while True:
                        text = await asyncio.wait_for(ws.recv(), PATIENCE_S)
                        self.assertNotIn('"connected"', text)
                self.assertEqual(closed.exception.rcvd.code, 3500, bad[:40])

    async def test_the_first_frame_must_be_connect(self):
        async with connect(WS, compression=None) as ws:
            await ws.send(send_frame("1", '{"text":"let me in"}'))
            with self.assertRaises(ConnectionClosed) as closed:
                while True:
                    text = await asyncio.wait_for(ws.recv(), 2 * PATIENCE_S)
                    self.assertTrue(text.startswith('{"error"'), text)
            # At once, or when the time for `connect` is over.
            self.assertIn(closed.exception.rcvd.code, (3500, 3503, 3504))

    async def test_anothers_history_is_refused(self):
        for bearer in (token("customer", name("customer")), "nonsense"):
            path = f"/v1/conversations/{name('customer')}/events"
            request = urllib.request.Request(URL + path, headers={"authorization": f"Bearer {bearer}"})
            with self.assertRaises(urllib.error.HTTPError) as refused:
                await asyncio.to_thread(urllib.request.urlopen, request, timeout=PATIENCE_S)
            self.assertIn(refused.exception.code, (401, 403, 404))
            kind = refused.exception.headers["content-type"]
            refused.exception.close()
            self.assertTrue(kind.startswith("application/problem+json"), kind)


class Small_things(unittest.IsolatedAsyncioTestCase):
    async def test_both_kinds_of_ping_are_answered(self):
        async with Client("customer", name("customer")) as client:
            await asyncio.wait_for(await client.ws.ping(b"are you there"), PATIENCE_S)
            await client.say({"ping": {}})
            await client.until("pong")

    async def test_fragmented_text_is_one_frame(self):
        async with Client("customer", name("customer")) as client:
            id = str(uuid.uuid4())
            frame = send_frame(id, '{"text":"in pieces"}')
            await client.ws.send([frame[:5], frame[5:20], frame[20:]])
            await client.placed(id)

    async def test_a_token_is_refreshed_on_the_live_connection(self):
        user = name("customer")
        async with Client("customer", user) as client:
            await client.say({"refresh": {"token": token("customer", user)}})
            await client.placed(await client.send("still here"))

    async def test_connected_says_who_and_where(self):
        user = name("customer")
        async with Client("customer", user) as client:
            hello = client.connected
            self.assertEqual((hello["user"], hello["role"]), (user, "customer"))
            self.assertTrue(hello["session"] and hello["node"])
            self.assertGreater(hello["ping_s"], 0)
            conversation = await client.until("conversation")
            self.assertEqual((conversation["conversation"], conversation["last_seq"], conversation["state"]), (user, 0, "idle"))

    async def test_a_message_to_nobody_makes_the_session_wanted(self):
        async with Client("customer", name("customer")) as client:
            await client.send("is anybody there?")
            await client.until("conversation", lambda c: c["state"] in ("wanted", "queued", "active"))

    async def test_a_close_ends_the_session_for_both(self):
        async with Pair() as (customer, agent):
            await customer.say({"act": {"id": str(uuid.uuid4()), "close": {}}})
            for side in (customer, agent):
                await side.until("event", lambda e: "closed" in e)
                await side.until("conversation", lambda c: c["state"] == "idle")


if __name__ == "__main__":
    unittest.main()
