//! The page for people: a few files, the same for everybody, that ask the API for all they show.
//!
//! Addresses in them are relative, so that the page works behind any proxy's path, and nothing is
//! loaded from elsewhere: what a browser may do with the page is said in [`POLICY`].

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use axum::{
    Router,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
            REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse as _, Response},
    routing::get,
};

/// One file of the page.
struct Asset {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! asset {
    ($path:literal, $file:literal, $kind:expr) => {
        Asset {
            path: $path,
            kind: $kind,
            text: include_str!(concat!("page/", $file)),
        }
    };
}

const ASSETS: [Asset; 8] = [
    asset!("/", "index.html", "text/html; charset=utf-8"),
    asset!("/page/page.css", "page.css", "text/css; charset=utf-8"),
    asset!("/page/icon.svg", "icon.svg", "image/svg+xml"),
    asset!("/page/page.js", "page.js", SCRIPT),
    asset!("/page/ask.js", "ask.js", SCRIPT),
    asset!("/page/draw.js", "draw.js", SCRIPT),
    asset!("/page/views.js", "views.js", SCRIPT),
    asset!("/page/words.js", "words.js", SCRIPT),
];

/// Scripts, styles and data from where the page itself comes from, and nothing else; nobody may put
/// it into a frame of theirs, and no text becomes markup (`trusted-types 'none'`).
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// Whether a path is one of the page's files, which tell nothing and are served to everybody.
pub(super) fn has(path: &str) -> bool {
    ASSETS.iter().any(|asset| asset.path == path)
}

/// The routes of the page.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        router.route(
            asset.path,
            get(move |headers: HeaderMap| async move { asset.answer(&headers) }),
        )
    })
}

impl Asset {
    /// Changes with every change of the file.
    fn tag(&self) -> String {
        let mut hasher = DefaultHasher::new();
        self.text.hash(&mut hasher);
        format!("\"{:016x}\"", hasher.finish())
    }

    fn answer(&self, asked: &HeaderMap) -> Response {
        let tag = self.tag();
        let known = asked
            .get(IF_NONE_MATCH)
            .and_then(|tags| tags.to_str().ok())
            .is_some_and(|tags| {
                let mut tags = tags
                    .split(',')
                    .map(|tag| tag.trim().trim_start_matches("W/"));
                tags.any(|given| given == tag || given == "*")
            });
        let mut answer = match known {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => self.text.into_response(),
        };
        let headers = answer.headers_mut();
        for (name, value) in [
            (CONTENT_TYPE, self.kind),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            (CROSS_ORIGIN_OPENER_POLICY, "same-origin"),
            (CROSS_ORIGIN_RESOURCE_POLICY, "same-origin"),
            // asked for again each time: a new daemon has a new page
            (CACHE_CONTROL, "no-cache"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(ETAG, tag);
        }
        answer
    }
}

const CROSS_ORIGIN_OPENER_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-opener-policy");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName =
    HeaderName::from_static("cross-origin-resource-policy");

#[cfg(test)]
mod tests {
    use super::{ASSETS, POLICY, has};

    #[test]
    fn nothing_is_loaded_from_elsewhere() {
        for asset in &ASSETS {
            // The name of a namespace is no address that anybody asks.
            let text = asset.text.replace("http://www.w3.org/2000/svg", "");
            for word in ["http://", "https://", "\"//", "'//", "(//", "@import"] {
                assert!(!text.contains(word), "{} has {word}", asset.path);
            }
        }
    }

    #[test]
    fn addresses_are_relative() {
        for asset in &ASSETS {
            for word in [
                "href=\"/",
                "src=\"/",
                "from \"/",
                "fetch(\"/",
                "url(/",
                "url(\"/",
            ] {
                assert!(!asset.text.contains(word), "{} has {word}", asset.path);
            }
        }
    }

    #[test]
    fn text_never_becomes_markup_or_code() {
        for asset in &ASSETS {
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "style=",
                "onclick=",
                "localStorage",
                "<script>",
                "<style",
            ] {
                assert!(!asset.text.contains(word), "{} has {word}", asset.path);
            }
        }
        assert!(!POLICY.contains("unsafe"));
    }

    #[test]
    fn every_file_that_one_names_is_served() {
        for asset in &ASSETS {
            // from the document on, or from another module
            for (before, folder) in [("\"page/", "/page/"), ("from \"./", "/page/")] {
                for rest in asset.text.split(before).skip(1) {
                    let name = rest.split('"').next().unwrap_or_default();
                    assert!(has(&format!("{folder}{name}")), "{}: {name}", asset.path);
                }
            }
        }
    }

    #[test]
    fn it_is_small() {
        let bytes: usize = ASSETS.iter().map(|asset| asset.text.len()).sum();
        assert!(bytes < 60 << 10, "{bytes} bytes");
    }
}
