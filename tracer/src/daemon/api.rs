//! The HTTP interface: JSON under `/v1`, the page, metrics, and the two probes of an orchestrator.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    about::About,
    answers::{Asked, Trouble, Unmade},
    metrics::{self, Labels},
    page,
    routes::{self, Answer, Route},
    worker::{Handle, Jobs},
};
use crate::{
    findings::profile,
    refused::Refusal,
    report::{FindingDetail, Overview, SCHEMA, harmless},
};

/// Connections listed when the request does not say how many.
const CONNECTIONS_DEFAULT: usize = 1000;
/// Most connections listed.
const CONNECTIONS_MAX: usize = 10_000;

/// All routes, and the page's.
pub(super) fn router(worker: Arc<Handle>, about: About, labels: Labels) -> Router {
    let handler = |answer| -> MethodRouter<Arc<Handle>> {
        match answer {
            Answer::Report => get(report),
            Answer::Overview => {
                let about = about.clone();
                get(move |worker| overview(worker, about.clone()))
            }
            Answer::Finding => get(finding),
            Answer::Connections => get(connections),
            Answer::Doctor => get(doctor),
            Answer::Profile => get(profile),
            Answer::Metrics => get(move |worker| metrics_text(worker, labels)),
            Answer::Alive => get(healthz),
            Answer::Ready => get(readyz),
        }
    };
    let add = |router: Router<Arc<Handle>>, route: &Route| {
        router.route(route.path, handler(route.answer))
    };
    routes::ALL
        .iter()
        .fold(page::routes(), add)
        .fallback(|| async { problem(StatusCode::NOT_FOUND, &routes::paths()) })
        .with_state(worker)
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value).map(harmless) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

pub(super) fn problem(status: StatusCode, message: &str) -> Response {
    let text = serde_json::json!({ "error": message }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

const JSON: &str = "application/json";

fn text(value: &impl Serialize) -> Result<String, Unmade> {
    Ok(harmless(serde_json::to_string(value)?))
}

/// Answers with a text that is made once for all who ask within a moment, whoever and however many
/// they are.
async fn cached(
    worker: &Handle,
    asked: Asked,
    kind: &'static str,
    make: impl FnOnce(&mut Jobs) -> Result<String, Unmade> + Send + 'static,
) -> Response {
    let made = worker.answers().get(asked, || worker.ask(make)).await;
    match made {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(Trouble::Broken(error)) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
        }
        Err(Trouble::Busy(error)) => {
            let mut answer = problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string());
            let soon = HeaderValue::from_static("1");
            answer.headers_mut().insert(header::RETRY_AFTER, soon);
            answer
        }
    }
}

async fn report(State(worker): State<Arc<Handle>>) -> Response {
    let latest = worker.report();
    cached(&worker, Asked::Report, JSON, move |jobs| match latest {
        Some(report) => text(&*report),
        None => text(&*jobs.report()?),
    })
    .await
}

async fn overview(State(worker): State<Arc<Handle>>, about: About) -> Response {
    cached(&worker, Asked::Overview, JSON, move |jobs| {
        let report = jobs.report()?;
        text(&Overview {
            schema: SCHEMA,
            observed_at: Timestamp::now(),
            host: about.host,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            watched: about.watched,
            timelines: jobs.timelines.sketch(&report),
        })
    })
    .await
}

async fn finding(State(worker): State<Arc<Handle>>, Path(id): Path<String>) -> Response {
    let found = worker
        .ask(move |jobs| find(jobs, &id))
        .await
        .unwrap_or_else(|error| Err((StatusCode::SERVICE_UNAVAILABLE, error.to_string())));
    match found {
        Ok(detail) => json(&detail),
        Err((status, message)) => problem(status, &message),
    }
}

fn find(jobs: &mut Jobs, id: &str) -> Result<FindingDetail, (StatusCode, String)> {
    let report = jobs
        .report()
        .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let known = || report.findings.iter().chain(&report.resolved);
    let mut matching = known().filter(|f| f.id.starts_with(id));
    let exact = known().find(|f| f.id == id);
    let finding = match (exact, matching.next(), matching.next()) {
        (Some(finding), _, _) | (None, Some(finding), None) => finding.clone(),
        (None, None, _) => {
            return Err((StatusCode::NOT_FOUND, format!("there is no finding {id}")));
        }
        (None, Some(_), Some(_)) => {
            let message = format!("several findings begin with {id}; give more digits");
            return Err((StatusCode::CONFLICT, message));
        }
    };
    Ok(FindingDetail {
        schema: SCHEMA,
        observed_at: Timestamp::now(),
        timeline: jobs.timelines.of(&finding.id),
        resources: (report.resources.iter())
            .filter(|limits| limits.concern(&finding))
            .cloned()
            .collect(),
        finding,
        nodes: None,
    })
}

#[derive(Debug, Deserialize)]
struct Limit {
    limit: Option<usize>,
}

async fn connections(
    State(worker): State<Arc<Handle>>,
    query: Result<Query<Limit>, QueryRejection>,
) -> Response {
    let query = match query {
        Ok(Query(query)) => query,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error.body_text()),
    };
    let limit = query.limit.unwrap_or(CONNECTIONS_DEFAULT);
    if limit > CONNECTIONS_MAX {
        Refusal::ClientLimit.count();
    }
    let limit = limit.min(CONNECTIONS_MAX);
    cached(&worker, Asked::Connections(limit), JSON, move |jobs| {
        text(&jobs.source.connections(limit)?)
    })
    .await
}

async fn profile(State(worker): State<Arc<Handle>>) -> Response {
    let latest = worker.report();
    let asked = worker.ask(move |jobs| match latest {
        Some(report) => Ok::<_, Unmade>(profile::pprof(&report)?),
        None => Ok(profile::pprof(&*jobs.report()?)?),
    });
    match asked.await {
        Ok(Ok(bytes)) => {
            ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
        }
        Ok(Err(error)) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    }
}

async fn doctor(State(worker): State<Arc<Handle>>) -> Response {
    cached(&worker, Asked::Doctor, JSON, |jobs| {
        text(&jobs.source.doctor())
    })
    .await
}

async fn metrics_text(State(worker): State<Arc<Handle>>, labels: Labels) -> Response {
    cached(
        &worker,
        Asked::Metrics,
        metrics::CONTENT_TYPE,
        move |jobs| {
            let report = jobs.report()?;
            let health = jobs.source.health();
            Ok(metrics::encode(&report, &health, jobs.totals(), labels)?)
        },
    )
    .await
}

async fn healthz(State(worker): State<Arc<Handle>>) -> Response {
    match worker.stuck_seconds() {
        None => "ok\n".into_response(),
        Some(seconds) => (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the session's loop has not turned for {seconds}s\n"),
        )
            .into_response(),
    }
}

async fn readyz(State(worker): State<Arc<Handle>>) -> Response {
    if worker.ready() {
        "ready\n".into_response()
    } else {
        let text = "probes are being attached, or the baseline is being taken\n";
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}
