//! Configurations, whole and damaged.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

use proptest::prelude::*;

use super::*;
use crate::{model::Confidence, report::Verdict, samples};

#[test]
fn a_whole_configuration_is_read() {
    let config = Config::parse(
        "listen = 9090\nsocket = \"/run/x.sock\"\nmax_sockets = 5000\n\n[ignore]\n\
         ids = [\"3f\"]\ncall_sites = [\"main.*\"]\nremotes = [\"10.0.0.7:443\"]\n\
         [[rule]]\nis = \"client\"\nfunction = [\"acme_*\"]\n",
        "tracer.toml",
    )
    .unwrap();
    assert_eq!(config.listen, Some(Listen(loopback(9090))));
    assert_eq!(config.max_sockets, NonZeroU32::new(5000));
    assert_eq!(config.ignore.call_sites, ["main.*"]);
    assert_eq!(config.rule.len(), 1);
    assert_eq!(Config::parse("", "x").unwrap(), Config::default());
}

#[test]
fn damage_is_named_by_line_and_key() {
    for (text, line, key, message) in [
        (
            "listen = 9090\nlisten_on = 1\n",
            2,
            "listen_on",
            "unknown field",
        ),
        (
            "[ignore]\nids = [\"a\"]\nidz = 1\n",
            3,
            "ignore.idz",
            "unknown field",
        ),
        (
            "\nmax_sockets = \"many\"\n",
            2,
            "max_sockets",
            "invalid type",
        ),
        ("max_sockets = 0\n", 1, "max_sockets", "nonzero"),
        ("\n[[rule]]\nis = \"own\"\n", 2, "rule", "has none of"),
        ("max_sockets = -4\n", 1, "max_sockets", "invalid value"),
        ("listen = \":9090\"\n", 1, "listen", "0.0.0.0:9090"),
        (
            "[ignore]\nids = [\n  \"a\",\n  7,\n]\n",
            4,
            "ignore.ids",
            "invalid type",
        ),
        ("socket = \"/x\nlisten = 1\n", 1, "socket", ""),
        ("socket\n", 1, "socket", ""),
    ] {
        let error = Config::parse(text, "tracer.toml").unwrap_err();
        let shown = error.to_string();
        let ConfigError::Damaged {
            line: at,
            key: named,
            ..
        } = error
        else {
            panic!("{shown}")
        };
        assert_eq!((at, named.as_str()), (line, key), "{shown}");
        assert!(shown.contains(message), "{shown}");
    }
}

#[test]
fn a_port_alone_binds_the_loopback_address() {
    assert_eq!(parse_listen("9090"), Ok(loopback(9090)));
    assert_eq!(parse_listen("localhost:9090"), Ok(loopback(9090)));
    assert_eq!(parse_listen("0.0.0.0:1").unwrap().to_string(), "0.0.0.0:1");
    assert_eq!(parse_listen("[::1]:1").unwrap().to_string(), "[::1]:1");
    for text in [
        "",
        ":9090",
        "host",
        "1.2.3.4",
        "1.2.3.4:99999",
        "example.org:80",
    ] {
        assert!(parse_listen(text).is_err(), "{text}");
    }
}

#[test]
fn hidden_findings_are_counted_and_change_the_verdict() {
    for ignore in [
        Ignore {
            ids: vec!["3f9a1c2b4d5e6f70".into()],
            ..Ignore::default()
        },
        Ignore {
            call_sites: vec!["main.*".into()],
            ..Ignore::default()
        },
        Ignore {
            call_sites: vec!["/src/main.go:24".into()],
            ..Ignore::default()
        },
        Ignore {
            remotes: vec!["127.0.0.1:*".into()],
            ..Ignore::default()
        },
        Ignore {
            remotes: vec!["http://*/v2/*".into()],
            ..Ignore::default()
        },
    ] {
        let mut report = samples::report();
        ignore.apply(&mut report);
        assert_eq!(report.findings, [], "{ignore:?}");
        assert_eq!(report.ignored, 1);
        assert_eq!(report.verdict, Verdict::Clean);
    }
    let mut report = samples::report();
    report.unsettled.push("Events were lost.".to_owned());
    let all = Ignore {
        ids: vec!["*".into()],
        ..Ignore::default()
    };
    all.apply(&mut report);
    assert_eq!(report.verdict, Verdict::Inconclusive, "losses stay");
    let mut report = samples::report();
    report.findings.push(Finding {
        id: "other".into(),
        confidence: Confidence::Low,
        ..samples::finding()
    });
    let ignore = Ignore {
        ids: vec!["3f9a*".into()],
        ..Ignore::default()
    };
    ignore.apply(&mut report);
    assert_eq!(report.verdict, Verdict::Inconclusive);
    assert_eq!(report.inconclusive_because.len(), 1);
    Ignore::default().apply(&mut report);
    assert_eq!(report.ignored, 1);
}

#[test]
fn stars_stand_for_any_text() {
    for (pattern, text, expected) in [
        ("abc", "abc", true),
        ("abc", "abcd", false),
        ("a*", "a", true),
        ("*", "", true),
        ("a*c", "abc", true),
        ("a*c", "ab", false),
        ("*b*", "abc", true),
        ("a*a", "a", false),
        ("a**c", "ac", true),
    ] {
        assert_eq!(matches_pattern(pattern, text), expected, "{pattern} {text}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC*|[a-z_=\\[\\]\"0-9\n ,#']{0,80}") {
        let _ = Config::parse(&text, "x");
        let _ = parse_listen(&text);
    }

    #[test]
    fn every_place_has_a_line(text in "[a-zé=\\[\\]\n ]{0,60}", offset in 0usize..80) {
        let (line, _) = locate(&text, offset);
        prop_assert!(line >= 1 && line <= text.matches('\n').count() + 1);
    }

    #[test]
    fn a_text_matches_itself_and_its_prefix(text in "[a-z/:]{1,20}", cut in 0usize..20) {
        let cut = cut.min(text.len());
        prop_assert!(matches_pattern(&text, &text));
        let prefix = format!("{}*", &text[..cut]);
        prop_assert!(matches_pattern(&prefix, &text));
    }
}
