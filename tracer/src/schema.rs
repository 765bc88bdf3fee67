//! `docs/schema` is what the types of the report and the table of routes say: generated from them, and
//! held against them.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod openapi;

use std::{env, fs, path::Path};

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::Value;

use crate::{
    model::Kind,
    report::{ConnectionList, Doctor, Event, FindingDetail, Overview, Report},
};

/// When set, the files are written anew.
const WRITE: &str = "TRACER_WRITE_SCHEMA";

fn generated<T: JsonSchema>(title: &str) -> String {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    without_fixture(schema.pointer_mut("/$defs/Kind"));
    printed(&schema)
}

/// Every kind is described by itself; one of them only tests have.
fn without_fixture(kind: Option<&mut Value>) {
    let Some(kind) = kind else { return };
    let kinds = kind["oneOf"].as_array_mut().unwrap();
    let all = kinds.len();
    kinds.retain(|kind| kind["const"] != Kind::Fixture.name());
    assert_eq!(kinds.len(), all - 1, "{kinds:?}");
}

fn printed(document: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(document).unwrap() + "\n"
}

#[test]
fn the_published_schemas_are_those_of_the_types() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
    for (file, schema) in [
        (
            "report.json",
            generated::<Report>("tracer check -o json, tracer top -o json"),
        ),
        (
            "describe.json",
            generated::<FindingDetail>("tracer describe ID -o json"),
        ),
        (
            "connections.json",
            generated::<ConnectionList>("tracer connections -o json"),
        ),
        ("doctor.json", generated::<Doctor>("tracer doctor -o json")),
        (
            "overview.json",
            generated::<Overview>("the daemon's /v1/overview"),
        ),
        ("event.json", generated::<Event>("what a webhook gets")),
        ("openapi.json", printed(&openapi::document())),
    ] {
        let path = directory.join(file);
        if env::var_os(WRITE).is_some() {
            fs::write(&path, &schema).unwrap();
        }
        let published = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            published == schema,
            "docs/schema/{file} is not what the types say; {WRITE}=1 cargo test -p tracer --lib \
             schema writes it anew"
        );
    }
}
