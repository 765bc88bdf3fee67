//! What the numbers about a Go program's pools mean, in sentences: was a setting applied, and does
//! it matter for this leak?

use crate::model::{GoPools, GoSettings, Kind, OffsetsFrom};

/// `net/http.DefaultMaxIdleConnsPerHost`
const DEFAULT_IDLE_PER_HOST: u64 = 2;

/// Sentences about one finding's connections.
#[must_use]
pub fn go_notes(go: &GoPools, kind: Kind) -> Vec<String> {
    let mut notes = Vec::new();
    match go.offsets_from {
        OffsetsFrom::Table => {}
        OffsetsFrom::Dwarf => notes.push(
            "Its version of Go is not known; its structures were read as its own DWARF describes \
             them, and every value was checked."
                .to_owned(),
        ),
        OffsetsFrom::Newest => notes.push(
            "Its version of Go is not known; its structures were read as those of the newest \
             known version, and every value was checked."
                .to_owned(),
        ),
    }
    let states: Vec<String> = go
        .states
        .iter()
        .map(|(state, count)| format!("{count} {}", state.replace('_', " ")))
        .collect();
    if states.is_empty() {
        return notes;
    }
    let server = go.transports == 0 && go.peak_per_host == 0 && go.transport.is_none();
    notes.push(format!(
        "The program itself counts: {}{}.",
        states.join(", "),
        match (server, go.transports) {
            (false, 2..) => format!(", on {} transports", go.transports),
            _ => String::new(),
        }
    ));
    if go.states.contains_key("hijacked") {
        notes.push(
            "A hijacked connection is its handler's to close; net/http has forgotten it."
                .to_owned(),
        );
    }
    if go.requests_per_connection > 0.0 && !server {
        notes.push(format!(
            "{} requests per connection; {:.0} % of the requests used one that was there before.",
            go.requests_per_connection,
            go.reuse_ratio * 100.0
        ));
    }
    if go.goroutines > 0 {
        notes.push(format!("{} goroutines are tied up by them.", go.goroutines));
    }
    if let Some(set) = &go.transport {
        notes.extend(limit(go, set, kind));
        notes.extend(idle(go, set, kind));
        if set.disable_keep_alives {
            notes.push(
                "DisableKeepAlives is set: every request dials, and no connection is ever idle."
                    .to_owned(),
            );
        }
    }
    notes
}

/// About `MaxConnsPerHost`.
fn limit(go: &GoPools, set: &GoSettings, kind: Kind) -> Option<String> {
    let peak = go.peak_per_host;
    if peak == 0 {
        // Streams share connections.
        return None;
    }
    Some(match set.max_conns_per_host {
        0 => format!(
            "MaxConnsPerHost is 0: nothing limits the connections to one host; {peak} were open at \
             once."
        ),
        max if go.transports > 1 => format!(
            "MaxConnsPerHost = {max} is in force, but in each of the {} transports by itself: \
             together they are not limited (at most {peak} at once in one of them).",
            go.transports
        ),
        max if peak >= max => format!(
            "MaxConnsPerHost = {max} is in force and was reached: further requests to that host \
             wait for a connection that is never given back."
        ),
        max if matches!(
            kind,
            Kind::ResponseBodyNotClosed | Kind::StreamNeverCancelled
        ) =>
        {
            format!(
                "MaxConnsPerHost = {max} is in force: {peak} connections to one host at once so far. It \
             does not end what leaked; once {max} have, requests to that host block."
            )
        }
        max => format!(
            "MaxConnsPerHost = {max} is in force and was not reached: {peak} connections to one \
             host at once."
        ),
    })
}

/// About `MaxIdleConnsPerHost`, `MaxIdleConns` and `IdleConnTimeout`.
fn idle(go: &GoPools, set: &GoSettings, kind: Kind) -> Option<String> {
    if set.disable_keep_alives {
        return None;
    }
    let per_host = match set.max_idle_conns_per_host {
        0 => format!("0 (the default, {DEFAULT_IDLE_PER_HOST})"),
        n => n.to_string(),
    };
    let timeout = match set.idle_conn_timeout_seconds {
        s if s > 0.0 => format!("{s} s"),
        _ => "0 (never)".to_owned(),
    };
    let settings = format!("MaxIdleConnsPerHost = {per_host} and IdleConnTimeout = {timeout}");
    let idle = go.states.get("idle").copied().unwrap_or(0);
    Some(match (idle, kind) {
        (0, _) => format!("{settings} apply to idle connections only; none of these is idle."),
        (idle, Kind::ClientPerRequest) if go.transports > 1 => format!(
            "{settings} apply to each transport by itself: {idle} idle connections in {} pools, \
             none of which the others can use.",
            go.transports
        ),
        (idle, _) => format!("{settings} are in force for the {idle} that are idle."),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::go_notes;
    use crate::model::{GoPools, GoSettings, GoSight, Kind, OffsetsFrom};

    fn info(state: &str, max_conns: u64, peak: u64, transports: u64) -> GoPools {
        GoPools {
            main_module: "shop.example/app".to_owned(),
            view: GoSight::Pools,
            offsets_from: OffsetsFrom::Table,
            notes: Vec::new(),
            states: BTreeMap::from([(state.to_owned(), 40)]),
            transports,
            requests_per_connection: 1.5,
            reuse_ratio: 0.33,
            peak_per_host: peak,
            goroutines: 80,
            transport: Some(GoSettings {
                max_conns_per_host: max_conns,
                max_idle_conns: 0,
                max_idle_conns_per_host: 0,
                idle_conn_timeout_seconds: 90.0,
                disable_keep_alives: false,
            }),
        }
    }

    fn says(go: &GoPools, kind: Kind, sentence: &str) {
        let notes = go_notes(go, kind);
        assert!(notes.iter().any(|note| note == sentence), "{notes:#?}");
    }

    #[test]
    fn a_limit_is_told_with_what_it_does_here() {
        let body = Kind::ResponseBodyNotClosed;
        says(
            &info("response", 50, 40, 1),
            body,
            "MaxConnsPerHost = 50 is in force: 40 connections to one host at once so far. It does \
             not end what leaked; once 50 have, requests to that host block.",
        );
        says(
            &info("response", 40, 40, 1),
            body,
            "MaxConnsPerHost = 40 is in force and was reached: further requests to that host wait \
             for a connection that is never given back.",
        );
        says(
            &info("response", 0, 40, 1),
            body,
            "MaxConnsPerHost is 0: nothing limits the connections to one host; 40 were open at \
             once.",
        );
        says(
            &info("idle", 50, 1, 40),
            Kind::ClientPerRequest,
            "MaxConnsPerHost = 50 is in force, but in each of the 40 transports by itself: \
             together they are not limited (at most 1 at once in one of them).",
        );
    }

    #[test]
    fn idle_settings_matter_to_idle_connections_only() {
        says(
            &info("response", 0, 40, 1),
            Kind::ResponseBodyNotClosed,
            "MaxIdleConnsPerHost = 0 (the default, 2) and IdleConnTimeout = 90 s apply to idle \
             connections only; none of these is idle.",
        );
        says(
            &info("idle", 0, 1, 40),
            Kind::ClientPerRequest,
            "MaxIdleConnsPerHost = 0 (the default, 2) and IdleConnTimeout = 90 s apply to each \
             transport by itself: 40 idle connections in 40 pools, none of which the others can \
             use.",
        );
    }

    #[test]
    fn states_reuse_and_goroutines_are_counted() {
        let go = info("response", 0, 40, 2);
        let body = Kind::ResponseBodyNotClosed;
        says(
            &go,
            body,
            "The program itself counts: 40 response, on 2 transports.",
        );
        says(
            &go,
            body,
            "1.5 requests per connection; 33 % of the requests used one that was there before.",
        );
        says(&go, body, "80 goroutines are tied up by them.");
    }

    #[test]
    fn an_unknown_version_is_admitted() {
        let mut go = info("response", 0, 40, 1);
        go.offsets_from = OffsetsFrom::Newest;
        let notes = go_notes(&go, Kind::NeverClosed);
        assert!(notes[0].contains("is not known"), "{notes:#?}");
    }
}
