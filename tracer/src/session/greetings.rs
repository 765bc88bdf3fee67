//! The first messages of connections that speak neither HTTP nor TLS: what they are of.

use aya::maps::{MapData, RingBuf};
use tracer_ebpf::Greeting;

use super::{interner::Interner, latest_requests::LatestRequests};
use crate::{
    kernel::probes::{ProbeError, Probes},
    protocols::{Message, Request, Scheme, Service, hear, passed_on},
};

/// The messages that the kernel side passes on. Nothing of them outlives the call that takes them in
/// but a protocol and a database's name.
pub struct Greetings {
    ring: RingBuf<MapData>,
}

impl std::fmt::Debug for Greetings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Greetings").finish_non_exhaustive()
    }
}

impl Greetings {
    /// Those of the programs that were loaded.
    ///
    /// # Errors
    /// When the ring is not there, or can't be used.
    pub fn new(probes: &mut Probes) -> Result<Greetings, ProbeError> {
        Ok(Greetings {
            ring: probes.greetings()?,
        })
    }

    /// Takes in what came since the last time.
    pub fn take(&mut self, interner: &mut Interner<Request>, latest: &mut LatestRequests) {
        while let Some(record) = self.ring.next() {
            let Ok(greeting) = tracer_ebpf::decode::<Greeting>(&record) else {
                continue;
            };
            let (sk, opened_ns) = (greeting.sk, greeting.opened_ns);
            let known = latest.request(sk, opened_ns);
            let known = known.and_then(|number| interner.value(number));
            if let Some(said) = understood(&greeting, known)
                && let Some(number) = interner.number_of(&said)
            {
                latest.set_request(sk, opened_ns, number);
            }
        }
    }
}

/// What a message says of its connection, of which `known` was known; `None`: nothing new.
fn understood(greeting: &Greeting, known: Option<&Request>) -> Option<Request> {
    let service = match known {
        Some(known) => match known.scheme {
            Scheme::Of(service) => Some(service),
            // a handshake that was seen; requests say more
            Scheme::Https if known.method.is_empty() => None,
            Scheme::Http | Scheme::Https => return None,
        },
        None => None,
    };
    let bytes = greeting.bytes.get(..greeting.kept as usize)?;
    let message = Message {
        bytes,
        len: greeting.len as usize,
        sent: greeting.sent != 0,
        port: u16::try_from(greeting.port).unwrap_or_default(),
    };
    if service.is_none()
        && let Some(head) = passed_on(&message)
    {
        return Some(Request {
            method: head.method,
            target: head.target,
            host: head.host,
            scheme: Scheme::Http,
        });
    }
    let spoken = hear(&message, service)?;
    if service.is_some() && spoken.database.is_none() {
        return None;
    }
    Some(Request {
        method: String::new(),
        target: match spoken.database {
            Some(database) => format!("/{database}"),
            None => String::new(),
        },
        host: known.and_then(|known| known.host.clone()),
        scheme: Scheme::Of(spoken.service),
    })
}

/// The service whose connection a TLS handshake begins, where one was heard before: the handshake adds
/// the server's name. Through a proxy's tunnel it is one with where the tunnel leads to.
pub fn with_name(said: Request, known: Option<&Request>) -> Request {
    match known {
        Some(known) if said.method.is_empty() && known.method == "CONNECT" => {
            let port = known.host.as_deref().and_then(|host| host.rsplit_once(':'));
            Request {
                host: match (said.host, port) {
                    (Some(name), Some((_, port))) => Some(format!("{name}:{port}")),
                    (name, _) => name,
                },
                ..said
            }
        }
        Some(known) if said.method.is_empty() && is_of_service(known) => Request {
            host: said.host,
            ..known.clone()
        },
        _ => said,
    }
}

fn is_of_service(request: &Request) -> bool {
    matches!(request.scheme, Scheme::Of(_))
}

/// What is spoken, where it is no HTTP.
pub fn service(request: &Request) -> Option<Service> {
    match request.scheme {
        Scheme::Of(service) => Some(service),
        Scheme::Http | Scheme::Https => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
mod tests {
    use tracer_ebpf::GREETING_BYTES;

    use super::*;
    use crate::{model::Family, session::requests::shown};

    fn greeting(message: &[u8], port: u32) -> Greeting {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..message.len()].copy_from_slice(message);
        Greeting {
            sk: 1,
            opened_ns: 1,
            len: message.len() as u32,
            kept: message.len() as u32,
            sent: 1,
            port,
            bytes,
        }
    }

    fn name(request: &Request) -> String {
        shown(Family::Tcp4, "10.0.0.7:6379", request)
    }

    #[test]
    fn a_database_is_added_to_what_is_known_and_never_taken_away() {
        let ping = understood(&greeting(b"*1\r\n$4\r\nPING\r\n", 6379), None).unwrap();
        assert_eq!(name(&ping), "redis://10.0.0.7:6379");
        let select = greeting(b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n", 6379);
        let chosen = understood(&select, Some(&ping)).unwrap();
        assert_eq!(name(&chosen), "redis://10.0.0.7:6379/3");
        let get = greeting(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", 6379);
        assert_eq!(understood(&get, Some(&chosen)), None);
    }

    #[test]
    fn a_handshake_in_a_tunnel_has_the_port_where_that_leads_to() {
        let hello = |name: &str| Request {
            method: String::new(),
            target: String::new(),
            host: Some(name.to_owned()),
            scheme: Scheme::Https,
        };
        for (asked, expected) in [
            ("api.test:443", "https://api.test"),
            ("10.0.0.9:8443", "https://api.test:8443"),
        ] {
            let tunnel = Request {
                method: "CONNECT".to_owned(),
                scheme: Scheme::Http,
                ..hello(asked)
            };
            let inside = with_name(hello("api.test"), Some(&tunnel));
            let shown = shown(Family::Tcp4, "10.0.0.7:3128", &inside);
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn a_handshake_adds_the_name_of_the_server() {
        let ask = [0, 0, 0, 8, 4, 210, 22, 47];
        let asked = understood(&greeting(&ask, 5432), None).unwrap();
        let hello = Request {
            method: String::new(),
            target: String::new(),
            host: Some("db.test".to_owned()),
            scheme: Scheme::Https,
        };
        let both = with_name(hello.clone(), Some(&asked));
        assert_eq!(
            shown(Family::Tcp4, "10.0.0.7:5432", &both),
            "postgres://db.test:5432"
        );
        assert_eq!(with_name(hello.clone(), None), hello);
        // what is sent inside says what it is of
        let select = greeting(b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n", 6379);
        let inside = understood(&select, Some(&hello)).unwrap();
        assert_eq!(name(&inside), "redis://db.test:6379/3");
        let asked = Request {
            method: "GET".to_owned(),
            ..hello
        };
        assert_eq!(understood(&select, Some(&asked)), None);
    }
}
