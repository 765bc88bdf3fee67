//! Holds JSON against a JSON Schema (draft 2020-12), as far as `docs/schema` makes use of it.
//!
//! Not the `jsonschema` crate: it alone takes longer to compile than tracer itself, in each test
//! build, for a dozen keywords.
//!
//! A keyword that is not understood here is an error: a check that silently skips half of a schema
//! would prove nothing.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// What is wrong with `value`, as sentences; empty when it fits.
#[must_use]
pub fn problems(schema: &Value, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut validator = Validator {
        root: schema,
        found: &mut found,
    };
    validator.hold(schema, value, "$");
    found
}

/// Keywords that say something about the schema, not about the value.
const REMARKS: &[&str] = &[
    "$schema",
    "$id",
    "$defs",
    "$comment",
    "title",
    "description",
    "examples",
    "default",
    "format",
    "deprecated",
];

struct Validator<'a> {
    root: &'a Value,
    found: &'a mut Vec<String>,
}

impl<'a> Validator<'a> {
    fn problem(&mut self, place: &str, what: impl std::fmt::Display) {
        self.found.push(format!("{place}: {what}"));
    }

    /// Holds one value against one schema.
    fn hold(&mut self, schema: &'a Value, value: &Value, place: &str) {
        let keywords = match schema {
            Value::Bool(true) => return,
            Value::Object(keywords) => keywords,
            other => return self.problem(place, format!("nothing fits the schema {other}")),
        };
        for (keyword, wanted) in keywords {
            match keyword.as_str() {
                "$ref" => self.refer(wanted, value, place),
                "type" => self.hold_type(wanted, value, place),
                "const" if wanted != value => {
                    self.problem(place, format!("{value} is not {wanted}"));
                }
                "enum" => {
                    if !wanted.as_array().is_some_and(|all| all.contains(value)) {
                        self.problem(place, format!("{value} is none of {wanted}"));
                    }
                }
                "minimum" => {
                    if value
                        .as_f64()
                        .zip(wanted.as_f64())
                        .is_some_and(|(v, least)| v < least)
                    {
                        self.problem(place, format!("{value} is less than {wanted}"));
                    }
                }
                "maximum" => {
                    if value
                        .as_f64()
                        .zip(wanted.as_f64())
                        .is_some_and(|(v, most)| v > most)
                    {
                        self.problem(place, format!("{value} is more than {wanted}"));
                    }
                }
                "minLength" => {
                    let length = value.as_str().map(|text| text.chars().count() as u64);
                    if length
                        .zip(wanted.as_u64())
                        .is_some_and(|(is, least)| is < least)
                    {
                        self.problem(place, format!("{value} is shorter than {wanted}"));
                    }
                }
                "properties" | "required" | "additionalProperties" => {
                    if let Value::Object(object) = value {
                        self.hold_object(keyword, keywords, object, place);
                    }
                }
                "items" => {
                    for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.hold(wanted, item, &format!("{place}[{i}]"));
                    }
                }
                "allOf" | "anyOf" | "oneOf" => self.combine(keyword, wanted, value, place),
                "const" => {}
                other if REMARKS.contains(&other) => {}
                other => self.problem(place, format!("the test does not know the keyword {other}")),
            }
        }
    }

    /// `#/$defs/name`.
    fn refer(&mut self, target: &Value, value: &Value, place: &str) {
        let pointer = target.as_str().and_then(|target| target.strip_prefix('#'));
        match pointer.and_then(|pointer| self.root.pointer(pointer)) {
            Some(schema) => self.hold(schema, value, place),
            None => self.problem(place, format!("{target} leads nowhere")),
        }
    }

    fn hold_type(&mut self, wanted: &Value, value: &Value, place: &str) {
        let fits = |name: &Value| match name.as_str() {
            Some("null") => value.is_null(),
            Some("boolean") => value.is_boolean(),
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("number") => value.is_number(),
            Some("integer") => value.is_u64() || value.is_i64(),
            _ => false,
        };
        let fit = match wanted {
            Value::Array(names) => names.iter().any(fits),
            name => fits(name),
        };
        if !fit {
            self.problem(place, format!("{value} is not of type {wanted}"));
        }
    }

    fn hold_object(
        &mut self,
        keyword: &str,
        keywords: &'a Map<String, Value>,
        object: &Map<String, Value>,
        place: &str,
    ) {
        let properties = keywords.get("properties").and_then(Value::as_object);
        match (keyword, &keywords[keyword]) {
            ("required", names) => {
                for name in names
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str)
                {
                    if !object.contains_key(name) {
                        self.problem(place, format!("no {name}"));
                    }
                }
            }
            ("properties", _) => {
                for (name, schema) in properties.into_iter().flatten() {
                    if let Some(value) = object.get(name) {
                        self.hold(schema, value, &format!("{place}.{name}"));
                    }
                }
            }
            (_, schema) => {
                for (name, value) in object {
                    if !properties.is_some_and(|known| known.contains_key(name)) {
                        self.hold(schema, value, &format!("{place}.{name}"));
                    }
                }
            }
        }
    }

    fn combine(&mut self, keyword: &str, wanted: &'a Value, value: &Value, place: &str) {
        let mut all = Vec::new();
        let mut fitting = 0;
        let schemas = wanted.as_array().map_or(&[][..], Vec::as_slice);
        for schema in schemas {
            let mut found = Vec::new();
            Validator {
                root: self.root,
                found: &mut found,
            }
            .hold(schema, value, place);
            fitting += usize::from(found.is_empty());
            all.extend(found);
        }
        let fits = match keyword {
            "allOf" => fitting == schemas.len(),
            "anyOf" => fitting > 0,
            _ => fitting == 1,
        };
        if !fits {
            self.problem(
                place,
                format!("{fitting} of {keyword} fit: {}", all.join("; ")),
            );
        }
    }
}

/// Names of object members that appear in `value` and that the schema does not know at that place: a
/// contract that leaves a field out does not describe the output.
#[must_use]
pub fn unknown(schema: &Value, value: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    gather(schema, schema, value, "$", &mut names);
    names
}

/// Follows references and alternatives to what a schema says of members.
fn gather(root: &Value, schema: &Value, value: &Value, place: &str, names: &mut BTreeSet<String>) {
    let mut here = vec![schema];
    let mut next = 0;
    while let Some(schema) = here.get(next).copied() {
        next += 1;
        let target = schema["$ref"]
            .as_str()
            .and_then(|target| target.strip_prefix('#'));
        here.extend(target.and_then(|pointer| root.pointer(pointer)));
        for keyword in ["allOf", "anyOf", "oneOf"] {
            here.extend(schema[keyword].as_array().into_iter().flatten());
        }
    }
    for item in value.as_array().into_iter().flatten() {
        for schema in here
            .iter()
            .map(|schema| &schema["items"])
            .filter(|items| items.is_object())
        {
            gather(root, schema, item, &format!("{place}[]"), names);
        }
    }
    for (name, member) in value.as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        let known: Vec<&Value> = here
            .iter()
            .filter_map(|schema| match schema["properties"].get(name) {
                Some(known) => Some(known),
                None => Some(&schema["additionalProperties"]).filter(|rest| rest.is_object()),
            })
            .collect();
        if known.is_empty() {
            names.insert(place.clone());
        }
        for schema in known {
            gather(root, schema, member, &place, names);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{problems, unknown};

    fn schema() -> Value {
        json!({
            "$defs": { "count": { "type": "integer", "minimum": 0 } },
            "type": "object",
            "required": ["schema", "open"],
            "properties": {
                "schema": { "const": 1 },
                "open": { "$ref": "#/$defs/count" },
                "kind": { "enum": ["a", "b"] },
                "site": { "anyOf": [{ "type": "null" }, { "$ref": "#/$defs/count" }] },
                "list": { "type": "array", "items": { "type": ["string", "null"] } },
                "map": { "type": "object", "additionalProperties": { "$ref": "#/$defs/count" } },
            },
        })
    }

    #[test]
    fn what_fits_has_no_problems() {
        let value = json!({"schema": 1, "open": 3, "kind": "a", "site": null, "list": ["x", null],
                           "map": {"EAGAIN": 2}});
        assert_eq!(problems(&schema(), &value), Vec::<String>::new());
        assert!(unknown(&schema(), &value).is_empty());
    }

    #[test]
    fn each_fault_is_found() {
        for value in [
            json!({"schema": 2, "open": 3}),
            json!({"schema": 1}),
            json!({"schema": 1, "open": -1}),
            json!({"schema": 1, "open": 1.5}),
            json!({"schema": 1, "open": 1, "kind": "c"}),
            json!({"schema": 1, "open": 1, "site": "x"}),
            json!({"schema": 1, "open": 1, "list": [1]}),
            json!({"schema": 1, "open": 1, "map": {"x": -1}}),
            json!([]),
        ] {
            assert_eq!(problems(&schema(), &value).len(), 1, "{value}");
        }
    }

    #[test]
    fn what_the_schema_leaves_out_is_found() {
        let value = json!({"schema": 1, "open": 3, "extra": 1, "map": {"x": 1}});
        assert_eq!(
            unknown(&schema(), &value).into_iter().collect::<Vec<_>>(),
            ["$.extra"]
        );
    }

    #[test]
    fn an_unknown_keyword_is_no_pass() {
        assert_eq!(problems(&json!({"propertyNames": {}}), &json!({})).len(), 1);
        assert_eq!(
            problems(&json!({"$ref": "#/$defs/none"}), &json!({})).len(),
            1
        );
    }
}
