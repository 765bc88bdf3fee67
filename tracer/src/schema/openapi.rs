//! `docs/schema/openapi.json`: the daemon's table of routes, with the types of what they answer.

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::without_fixture;
use crate::{
    daemon::routes::{ALL, Answer, Parameter, Route},
    report::{ConnectionList, Doctor, FindingDetail, Overview, Report},
};

/// What the operations are called.
fn name(answer: Answer) -> &'static str {
    match answer {
        Answer::Report => "report",
        Answer::Overview => "overview",
        Answer::Finding => "finding",
        Answer::Connections => "connections",
        Answer::Doctor => "doctor",
        Answer::Profile => "profile",
        Answer::Metrics => "metrics",
        Answer::Alive => "alive",
        Answer::Ready => "ready",
    }
}

/// Media type and, of JSON, the schema of an answer.
fn content(answer: Answer, types: &mut SchemaGenerator) -> Value {
    let json = |schema: Schema| json!({ "application/json": { "schema": schema } });
    match answer {
        Answer::Report => json(types.subschema_for::<Report>()),
        Answer::Overview => json(types.subschema_for::<Overview>()),
        Answer::Finding => json(types.subschema_for::<FindingDetail>()),
        Answer::Connections => json(types.subschema_for::<ConnectionList>()),
        Answer::Doctor => json(types.subschema_for::<Doctor>()),
        Answer::Profile => json!({ "application/octet-stream": {} }),
        Answer::Metrics | Answer::Alive | Answer::Ready => text(),
    }
}

fn text() -> Value {
    json!({ "text/plain": { "schema": { "type": "string" } } })
}

/// When a route answers so, and with what.
fn failure(route: &Route, status: u16) -> Value {
    let when = match status {
        400 => "A parameter makes no sense.",
        401 => "Over TCP: no token, or none that the daemon knows.",
        404 => "There is no such finding.",
        409 => "Several findings have ids that begin so.",
        421 => "Over TCP: addressed to a host that the daemon does not know itself by.",
        500 => "The answer could not be made.",
        503 => "Not now: probes are being attached, or too many ask at one time.",
        other => panic!("nothing is known of status {other}"),
    };
    let words = matches!(route.answer, Answer::Alive | Answer::Ready) && status == 503;
    let problem = json!({ "$ref": "#/components/schemas/Problem" });
    let content = match words {
        true => text(),
        false => json!({ "application/json": { "schema": problem } }),
    };
    json!({ "description": when, "content": content })
}

fn parameter(parameter: Parameter) -> Value {
    match parameter {
        Parameter::Id => json!({
            "name": "id", "in": "path", "required": true,
            "description": "The finding's id, or its first digits.",
            "schema": { "type": "string" },
        }),
        Parameter::Limit => json!({
            "name": "limit", "in": "query",
            "description": "Connections listed: 1,000 where nothing is said, 10,000 at most.",
            "schema": { "type": "integer", "minimum": 0 },
        }),
    }
}

fn operation(route: &Route, types: &mut SchemaGenerator) -> Value {
    let mut responses = Map::new();
    let fine = json!({ "description": route.summary, "content": content(route.answer, types) });
    responses.insert("200".to_owned(), fine);
    let over_tcp: &[u16] = if route.open { &[421] } else { &[401, 421] };
    for &status in route.failures.iter().chain(over_tcp) {
        responses.insert(status.to_string(), failure(route, status));
    }
    let mut operation = json!({
        "operationId": name(route.answer),
        "summary": route.summary,
        "responses": responses,
    });
    if !route.parameters.is_empty() {
        operation["parameters"] = route.parameters.iter().copied().map(parameter).collect();
    }
    if route.open {
        operation["security"] = json!([]);
    }
    operation
}

/// The whole document.
pub fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.definitions_path = "/components/schemas".into();
    let mut types = settings.into_generator();
    let paths: Map<String, Value> = ALL
        .iter()
        .map(|route| {
            let operation = operation(route, &mut types);
            (route.path.to_owned(), json!({ "get": operation }))
        })
        .collect();
    let mut schemas = types.take_definitions(true);
    without_fixture(schemas.get_mut("Kind"));
    schemas.insert(
        "Problem".to_owned(),
        json!({
            "description": "Why there is no answer.",
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": { "type": "string", "description": "A sentence for people." },
                "tokens": {
                    "enum": ["wanted", "none"],
                    "description": "Of 401: whether a token would help.",
                },
            },
        }),
    );
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tracer daemon",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0" },
            "description": "What `tracer daemon` answers. On its local socket nothing is asked of root; \
                            over TCP all but metrics and probes needs a token of its token file.",
        },
        "servers": [{ "url": "http://127.0.0.1:9464" }],
        "security": [{ "bearer": [] }, { "header": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer" },
                "header": { "type": "apiKey", "in": "header", "name": "X-Tracer-Token" },
            },
        },
    })
}
