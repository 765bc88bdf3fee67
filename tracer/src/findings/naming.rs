//! On which rung of the ladder of names a remote stands, and why on no higher one.

use crate::{
    model::{Family, Remote, Role},
    protocols::Service,
    report::NamedBy,
};

/// A rung, and why it is none that is higher; the highest has no reason.
pub type Rung = (NamedBy, Option<String>);

/// What a URL says: its scheme, and whether there is more than an authority.
fn parts(url: &str) -> Option<(&str, bool)> {
    let (scheme, rest) = url.split_once("://")?;
    Some((scheme.trim_end_matches("+unix"), rest.contains('/')))
}

/// Why a name that a URL holds is not a better one.
#[must_use]
pub fn of_url(url: &str) -> Option<Rung> {
    let (scheme, has_path) = parts(url)?;
    if let Some(service) = Service::named(scheme) {
        let because = match (service.has_databases(), has_path) {
            (true, false) => {
                "The protocol has no URLs, and the messages that were seen name no database."
            }
            _ => "The protocol has no URLs, and of its messages nothing else is kept.",
        };
        return Some((NamedBy::Protocol, Some(because.to_owned())));
    }
    Some(match (scheme, has_path) {
        (_, true) => (NamedBy::Url, None),
        ("https", false) => (
            NamedBy::Sni,
            Some("What is sent is encrypted, and no request was seen before it was.".to_owned()),
        ),
        (_, false) => (
            NamedBy::Host,
            Some("The request names a host and no target.".to_owned()),
        ),
    })
}

/// The same of one connection, of which the latest request is shown, with its method where it has one.
#[must_use]
pub fn of_example(example: &str, role: Role) -> Option<Rung> {
    let (method, url) = example.rsplit_once(' ').unwrap_or(("", example));
    let (named_by, because) = of_url(url)?;
    Some(match (named_by, role, method) {
        (NamedBy::Sni, Role::Server, "") => {
            let because = "It was accepted: its name is the one that the received handshake asks for, \
                           and what is received since is encrypted.";
            (named_by, Some(because.to_owned()))
        }
        (NamedBy::Sni, _, "CONNECT") | (NamedBy::Host, _, "CONNECT") => {
            let because =
                "It is a tunnel through a proxy, to this host: what goes through it was not seen.";
            (NamedBy::Host, Some(because.to_owned()))
        }
        _ => (named_by, because),
    })
}

/// The rung of a UNIX socket without a URL.
#[must_use]
pub fn of_unix(path: &str, has_peer: bool) -> Rung {
    let because = |text: &str| Some(text.to_owned());
    match (path, has_peer) {
        ("(unnamed)", _) => (
            NamedBy::Pair,
            because("The ends of a socket pair have no names."),
        ),
        (_, true) => (
            NamedBy::UnixPeer,
            because("Nothing that was sent is a request of a known protocol."),
        ),
        (_, false) => (
            NamedBy::UnixPath,
            because(
                "Nothing that was sent is a request of a known protocol, and which process listens \
                 there was not found.",
            ),
        ),
    }
}

/// The rung of a finding's remote.
#[must_use]
pub fn of_remote(remote: &Remote, role: Role) -> Rung {
    if let Some(rung) = remote.url.as_deref().and_then(of_url) {
        return rung;
    }
    if remote.family == Family::Unix {
        return of_unix(&remote.address, remote.peer.is_some());
    }
    if remote.host.is_some() {
        let because = "The connections have no URL in common.";
        return (NamedBy::Host, Some(because.to_owned()));
    }
    let rung = match (&remote.resolved, &remote.in_cluster) {
        (Some(_), _) => NamedBy::Dns,
        (None, Some(_)) => NamedBy::Cluster,
        (None, None) => NamedBy::Address,
    };
    let because = match role {
        Role::Server => "The peers are many; named is the address where they were accepted.",
        Role::Client => {
            "Nothing that was sent on the connections is a request, a TLS handshake with a server \
             name or a message of a known protocol, or they have none in common."
        }
    };
    let because = match rung {
        NamedBy::Cluster => not_resolved(because),
        _ => because.to_owned(),
    };
    (rung, Some(because))
}

/// Why a name of the cluster is not one that was resolved, after why it is none that is higher.
#[must_use]
pub fn not_resolved(because: &str) -> String {
    format!("{because} That its process resolved a name to the address was not seen.")
}

/// The host of a remote, as far as it has one.
#[must_use]
pub fn host(remote: &Remote) -> Option<String> {
    let names = [&remote.host, &remote.resolved, &remote.in_cluster];
    names.into_iter().flatten().next().cloned()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use super::*;

    #[test]
    fn a_url_tells_what_it_was_made_from() {
        for (url, rung) in [
            ("http://127.0.0.1:8080/v2/{}", NamedBy::Url),
            ("https://api.test/", NamedBy::Url),
            ("https://api.test", NamedBy::Sni),
            ("http+unix://%2Frun%2Fdocker.sock/v1.43/info", NamedBy::Url),
            ("postgres://10.0.0.7:5432/orders", NamedBy::Protocol),
            ("redis+unix://%2Frun%2Fredis.sock", NamedBy::Protocol),
            ("http://proxy.test:443", NamedBy::Host),
        ] {
            let (named_by, because) = of_url(url).unwrap();
            assert_eq!(named_by, rung, "{url}");
            assert_eq!(because.is_none(), rung == NamedBy::Url, "{url}");
        }
        assert_eq!(of_url("no URL"), None);
    }

    #[test]
    fn of_one_connection_method_and_role_are_known() {
        let rung = |example, role| of_example(example, role).unwrap();
        let (named_by, because) = rung("https://shop.test:8443", Role::Server);
        assert_eq!(named_by, NamedBy::Sni);
        assert!(because.unwrap().starts_with("It was accepted"));
        for example in ["CONNECT http://api.test:443", "CONNECT https://api.test"] {
            let (named_by, because) = rung(example, Role::Client);
            assert_eq!(named_by, NamedBy::Host);
            assert!(because.unwrap().contains("tunnel"));
        }
        assert_eq!(
            rung("GET https://api.test/", Role::Client),
            (NamedBy::Url, None)
        );
    }

    #[test]
    fn what_has_no_url_stands_lower_and_says_why() {
        let mut remote = Remote {
            family: Family::Tcp4,
            address: "10.0.0.7:5000".to_owned(),
            host: None,
            url: None,
            peer: None,
            resolved: None,
            in_cluster: None,
        };
        let rung = |remote: &Remote| of_remote(remote, Role::Client).0;
        assert_eq!(rung(&remote), NamedBy::Address);
        remote.in_cluster = Some("web.shop.svc:5000".to_owned());
        let (named_by, because) = of_remote(&remote, Role::Client);
        assert_eq!(named_by, NamedBy::Cluster);
        assert!(because.unwrap().ends_with("was not seen."));
        assert_eq!(host(&remote).as_deref(), Some("web.shop.svc:5000"));
        remote.resolved = Some("web.test:5000".to_owned());
        assert_eq!(rung(&remote), NamedBy::Dns);
        assert_eq!(host(&remote).as_deref(), Some("web.test:5000"));
        remote.family = Family::Unix;
        remote.address = "/run/docker.sock".to_owned();
        assert_eq!(rung(&remote), NamedBy::UnixPath);
        remote.peer = Some((7, "dockerd".to_owned()));
        assert_eq!(rung(&remote), NamedBy::UnixPeer);
        remote.address = "(unnamed)".to_owned();
        assert_eq!(rung(&remote), NamedBy::Pair);
    }
}
