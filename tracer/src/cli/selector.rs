//! Label selectors as kubectl takes them (Kubernetes' documentation, "Labels and Selectors"). What one
//! chooses, `kube` knows; it has no parser.

use std::collections::BTreeSet;

use kube::core::{Expression, Selector};

/// Parses `app=web,tier!=cache,env in (a, b),env notin (c),canary,!old`.
///
/// # Errors
/// A sentence that says which part is no condition.
pub fn parse(text: &str) -> Result<Selector, String> {
    let conditions: Result<Vec<Expression>, String> = parts(text)?.into_iter().map(one).collect();
    let mut selector = Selector::default();
    selector.extend(conditions?);
    Ok(selector)
}

/// The conditions: commas within parentheses separate values.
fn parts(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut start, mut within) = (Vec::new(), 0, false);
    for (at, sign) in text.char_indices() {
        match sign {
            '(' if !within => within = true,
            ')' if within => within = false,
            '(' | ')' => return Err(format!("the parentheses of `{text}` do not match")),
            ',' if !within => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if within {
        return Err(format!("the parentheses of `{text}` do not match"));
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn one(text: &str) -> Result<Expression, String> {
    let text = text.trim();
    let wrong = || format!("`{text}` is no condition on labels, such as app=web, or env in (a, b)");
    let condition = if let Some(set) = text.strip_suffix(')') {
        let (before, values) = set.split_once('(').ok_or_else(wrong)?;
        let values: BTreeSet<String> = values.split(',').map(|v| v.trim().to_owned()).collect();
        let (key, operator) = before.trim().rsplit_once(' ').ok_or_else(wrong)?;
        let key = label(key).ok_or_else(wrong)?;
        match operator {
            "in" => Expression::In(key, values),
            "notin" => Expression::NotIn(key, values),
            _ => return Err(wrong()),
        }
    } else if let Some((key, value)) = text.split_once("!=") {
        Expression::NotEqual(label(key).ok_or_else(wrong)?, value.trim().to_owned())
    } else if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        Expression::Equal(label(key).ok_or_else(wrong)?, value.trim().to_owned())
    } else if let Some(key) = text.strip_prefix('!') {
        Expression::DoesNotExist(label(key).ok_or_else(wrong)?)
    } else {
        Expression::Exists(label(text).ok_or_else(wrong)?)
    };
    Ok(condition)
}

/// A key: what a label may be called.
fn label(key: &str) -> Option<String> {
    let key = key.trim();
    let of_it = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/');
    (!key.is_empty() && key.bytes().all(of_it)).then(|| key.to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use std::collections::BTreeMap;

    use kube::core::SelectorExt as _;

    use super::*;

    fn chooses(selector: &str) -> bool {
        let labels = [("app", "web"), ("env", "test"), ("example.com/tier", "")];
        let text = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        let labels: BTreeMap<String, String> = labels.into_iter().map(text).collect();
        parse(selector).unwrap().matches(&labels)
    }

    #[test]
    fn every_condition_has_to_be_met() {
        for chosen in [
            "app=web",
            "app==web",
            "app = web , env=test",
            "env!=live",
            "other!=x",
            "env in (live, test)",
            "env in (live,test),app=web",
            "env notin (live)",
            "app",
            "!other",
            "example.com/tier",
            "example.com/tier=",
        ] {
            assert!(chooses(chosen), "{chosen}");
        }
        for other in [
            "app=we",
            "app!=web",
            "env in (live)",
            "!app",
            "app=web,other",
            "env notin (test)",
        ] {
            assert!(!chooses(other), "{other}");
        }
    }

    #[test]
    fn what_is_no_condition_is_said() {
        for wrong in [
            "",
            "app=web,",
            "=web",
            "env in",
            "env on (a)",
            "in (a)",
            "a b",
            "a in (b",
            "a)",
            "!",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("a b").unwrap_err().contains("`a b`"));
    }
}
