use super::{Case, Class, Confidence, Fit, Kind, Mask, Rules, Spec, never};

const MASK: Mask = Mask::of(&[Class::Reused, Class::Parked]);
const PARKED: Mask = Mask::of(&[Class::Parked]);

/// A pool without a bound.
pub const SPEC: Spec = Spec {
    kind: Kind::PoolUnbounded,
    summary: "A reused pool that only grows.",
    documentation: DOCUMENTATION,
    client: rule,
    server: never,
    condition: |case: &Case<'_>| {
        format!(
            "{} are idle entries of a pool that opens more instead of using them.",
            case.of()
        )
    },
    advice: |_| "Give the pool a maximum size and an idle timeout.",
};

fn rule(rules: &Rules<'_>, before: &[Fit]) -> Option<Fit> {
    if before.iter().any(|fit| fit.mask.contains(PARKED)) {
        return None;
    }
    let passed_over = rules
        .passed_over()
        .then(|| rules.growth(SPEC.kind, PARKED, rules.settings().unanswered))
        .flatten();
    passed_over
        .filter(|fit| fit.confidence > Confidence::Low)
        .map(|fit| Fit {
            confidence: Confidence::Medium,
            ..fit
        })
        .or_else(|| rules.growth(SPEC.kind, MASK, rules.settings().pooled))
        .map(|fit| in_use(rules, fit))
}

/// Entries that are used as often as ever are a pool at work: it takes more of them to be sure that
/// it has no bound.
fn in_use(rules: &Rules<'_>, fit: Fit) -> Fit {
    let all = rules.gather(MASK).count;
    let enough = rules.settings().pooled_in_use;
    if rules.gather(PARKED).count * 2 >= all || all >= enough {
        return fit;
    }
    let minutes = f64::from(enough - all) / fit.ground.per_minute().max(0.1);
    Fit {
        confidence: Confidence::Low,
        settle_seconds: Some((minutes * 60.0).min(3600.0)),
        ..fit
    }
}

const DOCUMENTATION: &str = r#"
The connections were used again after their first moments, so there is a pool, and it has no bound
that is reached: each burst, or each checkout that finds nothing idle at that moment, adds to it.

**Healthy look-alikes.** A pool that warms up under load: it levels off, so this kind is never said
before a minute has passed, unless new ones are opened while the others have been idle for long.
A pool that grows with its work: as long as most of its entries are used as often as before, fewer
than fifty are no more than a suspicion.

**Confidence.** Medium at most: twenty and more, growing over a minute; or eight, growing over twenty seconds while idle
ones were passed over.

**What to change.**

- Go: `db.SetMaxOpenConns(n)`, `db.SetConnMaxIdleTime(d)`; `Transport.MaxConnsPerHost`.
- Python: `HTTPAdapter(pool_maxsize=n, pool_block=True)`; SQLAlchemy `pool_size`, `max_overflow`.
- Node: `maxSockets`, `maxFreeSockets`. Java: `maximumPoolSize`.
"#;
