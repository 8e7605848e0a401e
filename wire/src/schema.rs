//! JSON Schema and AsyncAPI 3 of the client protocol, derived from the frame types. The documents in `docs/protocol` are
//! these functions' output; a test fails when they differ.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::codes::CloseCode;
use crate::frames::{ClientFrame, ServerFrame};
use crate::limits;

const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

fn schema_of<T: schemars::JsonSchema>() -> Value {
    let schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>();
    serde_json::to_value(schema).unwrap_or(Value::Null)
}

/// One document with both directions: `$defs/ClientFrame` and `$defs/ServerFrame`.
pub fn json_schema() -> Value {
    let mut defs = serde_json::Map::new();
    for (name, mut schema) in [
        ("ClientFrame", schema_of::<ClientFrame<'static>>()),
        ("ServerFrame", schema_of::<ServerFrame<'static>>()),
    ] {
        if let Some(Value::Object(inner)) = schema.as_object_mut().and_then(|s| s.remove("$defs")) {
            defs.extend(inner);
        }
        if let Some(object) = schema.as_object_mut() {
            object.remove("$schema");
            object.insert("title".into(), name.into());
        }
        defs.insert(name.into(), schema);
    }
    json!({
        "$schema": DRAFT,
        "title": "Switchboard frames",
        "description": "Frames between clients and nodes: JSON, one object a frame, exactly one key that names it.",
        "oneOf": [{ "$ref": "#/$defs/ClientFrame" }, { "$ref": "#/$defs/ServerFrame" }],
        "$defs": defs,
    })
}

/// Points `#/$defs/X` at AsyncAPI's place for schemas.
fn rehome(value: &mut Value) {
    match value {
        Value::String(s) => {
            if let Some(name) = s.strip_prefix("#/$defs/") {
                *s = format!("#/components/schemas/{name}");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(rehome),
        Value::Object(map) => map.values_mut().for_each(rehome),
        _ => {}
    }
}

/// The protocol as an AsyncAPI 3 document.
pub fn asyncapi() -> Value {
    let mut schema = json_schema();
    let mut schemas = schema["$defs"].take();
    rehome(&mut schemas);
    let closes: Vec<Value> = CloseCode::ALL
        .iter()
        .map(|c| json!({ "code": c.number(), "reason": c.reason(), "reconnect": c.reconnect() }))
        .collect();
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Switchboard client protocol",
            "version": "1",
            "description": "The same frames over WebSocket (text frames), raw TCP (u32 big-endian length before each frame), \
                server-sent events and long polling down with POST /v1/frames up.",
            "license": { "name": "Apache-2.0" }
        },
        "defaultContentType": "application/json",
        "servers": {
            "node": { "host": "127.0.0.1:8080", "protocol": "ws", "description": "Any ingress node." }
        },
        "channels": {
            "connect": {
                "address": "/v1/connect",
                "messages": {
                    "client": { "$ref": "#/components/messages/client" },
                    "server": { "$ref": "#/components/messages/server" }
                },
                "bindings": { "ws": { "method": "GET", "bindingVersion": "0.1.0" } },
                "x-frame-bytes-max": limits::FRAME_BYTES_MAX,
                "x-body-bytes-max": limits::BODY_BYTES_MAX,
                "x-connect-timeout-ms": limits::CONNECT_TIMEOUT_MS,
                "x-close-codes": closes
            }
        },
        "operations": {
            "fromClient": {
                "action": "receive",
                "channel": { "$ref": "#/channels/connect" },
                "messages": [{ "$ref": "#/channels/connect/messages/client" }]
            },
            "toClient": {
                "action": "send",
                "channel": { "$ref": "#/channels/connect" },
                "messages": [{ "$ref": "#/channels/connect/messages/server" }]
            }
        },
        "components": {
            "messages": {
                "client": { "name": "ClientFrame", "payload": { "$ref": "#/components/schemas/ClientFrame" } },
                "server": { "name": "ServerFrame", "payload": { "$ref": "#/components/schemas/ServerFrame" } }
            },
            "schemas": schemas
        }
    })
}

/// As the documents are written: pretty, with a line break at the end.
pub fn text_of(document: &Value) -> String {
    format!("{document:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, document: &Value) {
        let path = format!("{}/../docs/protocol/{name}", env!("CARGO_MANIFEST_DIR"));
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == text_of(document),
            "docs/protocol/{name} is not what the types say; run: switchboard schema {} > docs/protocol/{name}",
            name.trim_end_matches(".json")
        );
    }

    #[test]
    fn the_written_documents_are_what_the_types_say() {
        check("frames.json", &json_schema());
        check("asyncapi.json", &asyncapi());
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk(value: &Value, root: &Value) {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(target)) = map.get("$ref") {
                        assert!(root.pointer(&target[1..]).is_some(), "{target}");
                    }
                    map.values().for_each(|v| walk(v, root));
                }
                Value::Array(items) => items.iter().for_each(|v| walk(v, root)),
                _ => {}
            }
        }
        for document in [json_schema(), asyncapi()] {
            walk(&document, &document);
        }
    }
}
