//! The table.

use std::process::Command;

use anyhow::Result;

use super::{Ground, Named, Row, Where, Whose, clients, servers::Place};

/// Named by all of the latest request.
const fn url(url: &'static str) -> Named {
    Named {
        by: "url",
        url: Some(url),
        because: "",
    }
}

/// Named by the protocol, and the database where it is told.
const fn protocol(url: &'static str) -> Named {
    Named {
        by: "protocol",
        url: Some(url),
        because: "The protocol has no URLs",
    }
}

/// Named by the handshake alone.
const HANDSHAKE: Named = Named {
    by: "sni",
    url: Some("https://shop.test:{port}"),
    because: "What is sent is encrypted",
};

/// The same of the handshake in a tunnel, which leads to this port.
const TUNNEL: Named = Named {
    by: "sni",
    url: Some("https://shop.test:8443"),
    because: "What is sent is encrypted",
};

/// The same of a connection that was accepted.
const ACCEPTED: Named = Named {
    by: "sni",
    url: Some("https://shop.test:{port}"),
    because: "It was accepted",
};

const fn row(
    client: &'static str,
    place: Place,
    start: fn(&Ground, &Where<'_>) -> Result<Command>,
    named: Named,
) -> Row {
    Row {
        client,
        place,
        start,
        named,
        whose: Whose::Client,
    }
}

/// The other end of such a row's connections.
const fn accepted(row: Row) -> Row {
    Row {
        whose: Whose::Server,
        ..row
    }
}

/// All rows.
pub const ROWS: &[Row] = &[
    row(
        "curl (OpenSSL 3)",
        Place::Http2,
        |g, p| clients::curl(g, p, "--http2"),
        url("GET https://shop.test:{port}/feed/curl?key=…"),
    ),
    row(
        "curl (OpenSSL 3)",
        Place::Https,
        |g, p| clients::curl(g, p, "--http1.1"),
        url("GET https://shop.test:{port}/feed/curl?key=…"),
    ),
    row(
        "curl",
        Place::Unix,
        |g, p| clients::curl(g, p, "--http1.1"),
        url("GET http+unix://{path}/feed/curl?key=…"),
    ),
    row(
        "libcurl (GnuTLS)",
        Place::Http2,
        |g, p| clients::python("gnutls", g, p),
        url("GET https://shop.test:{port}/orders/gnutls?key=…"),
    ),
    row(
        "libcurl (GnuTLS)",
        Place::Https,
        |g, p| clients::python("gnutls", g, p),
        url("GET https://shop.test:{port}/orders/gnutls?key=…"),
    ),
    row(
        "wget (GnuTLS)",
        Place::Https,
        clients::wget,
        url("GET https://shop.test:{port}/feed/wget?key=…"),
    ),
    row(
        "Python http.client",
        Place::Https,
        |g, p| clients::python("urllib", g, p),
        url("GET https://shop.test:{port}/orders/urllib?key=…"),
    ),
    row(
        "Python requests",
        Place::Https,
        |g, p| clients::python("requests", g, p),
        url("GET https://shop.test:{port}/orders/requests?key=…"),
    ),
    row(
        "Python httpx",
        Place::Https,
        |g, p| clients::python("httpx", g, p),
        url("GET https://shop.test:{port}/orders/httpx?key=…"),
    ),
    row(
        "Python httpx, HTTP/2",
        Place::Http2,
        |g, p| clients::python("httpx-h2", g, p),
        url("GET https://shop.test:{port}/orders/httpx-h2?key=…"),
    ),
    row(
        "Python httpx",
        Place::Unix,
        |g, p| clients::python("httpx", g, p),
        url("GET http+unix://{path}/orders/httpx?key=…"),
    ),
    row(
        "Python aiohttp",
        Place::Https,
        |g, p| clients::python("aiohttp", g, p),
        url("GET https://shop.test:{port}/feed/aiohttp?key=…"),
    ),
    row(
        "Python aiohttp",
        Place::Unix,
        |g, p| clients::python("aiohttp", g, p),
        url("GET http+unix://{path}/feed/aiohttp?key=…"),
    ),
    row(
        "Python urllib3 (pyOpenSSL)",
        Place::Https,
        |g, p| clients::python_with_module("pyopenssl", g, p),
        url("GET https://shop.test:{port}/orders/pyopenssl?key=…"),
    ),
    row(
        "Python curl_cffi (BoringSSL)",
        Place::Https,
        |g, p| clients::python_with_module("curl_cffi", g, p),
        url("GET https://shop.test:{port}/orders/curl_cffi?key=…"),
    ),
    row(
        "Python curl_cffi (BoringSSL)",
        Place::Http2,
        |g, p| clients::python_with_module("curl_cffi", g, p),
        url("GET https://shop.test:{port}/orders/curl_cffi?key=…"),
    ),
    row(
        "Python http.client (OpenSSL 1.1)",
        Place::Https,
        clients::python_with_openssl_1,
        url("GET https://shop.test:{port}/orders/urllib?key=…"),
    ),
    row(
        "Node https",
        Place::Https,
        |g, p| clients::node("https", g, p),
        url("GET https://shop.test:{port}/orders/https?key=…"),
    ),
    row(
        "Node fetch",
        Place::Https,
        |g, p| clients::node("fetch", g, p),
        url("GET https://shop.test:{port}/feed/fetch?key=…"),
    ),
    row(
        "Node http2",
        Place::Http2,
        |g, p| clients::node("http2", g, p),
        url("GET https://shop.test:{port}/orders/http2?key=…"),
    ),
    row(
        "Node http",
        Place::Unix,
        |g, p| clients::node("unix", g, p),
        url("GET http+unix://{path}/orders/unix?key=…"),
    ),
    row(
        "Java HttpClient, HTTP/2",
        Place::Http2,
        |g, p| clients::java("h2", g, p),
        HANDSHAKE,
    ),
    row(
        "Java HttpClient, HTTP/1.1",
        Place::Https,
        |g, p| clients::java("h1", g, p),
        HANDSHAKE,
    ),
    row(
        "Java HttpsURLConnection",
        Place::Https,
        |g, p| clients::java("url", g, p),
        HANDSHAKE,
    ),
    row(
        "Go net/http, HTTP/2",
        Place::Http2,
        |g, p| clients::golang("h2-feed", g, p),
        url("GET https://shop.test:{port}/feed/h2-feed?key=…"),
    ),
    // of streams that have ended nothing is kept
    row(
        "Go net/http, HTTP/2, no stream",
        Place::Http2,
        |g, p| clients::golang("h2", g, p),
        HANDSHAKE,
    ),
    row(
        "Go net/http, HTTP/1.1",
        Place::Https,
        |g, p| clients::golang("h1", g, p),
        url("GET https://shop.test:{port}/orders/h1?key=…"),
    ),
    row(
        "Rust reqwest (rustls)",
        Place::Https,
        |g, p| clients::rust("rustls", g, p, false),
        url("GET https://shop.test:{port}/orders/rustls?key=…"),
    ),
    row(
        "Rust reqwest (rustls)",
        Place::Http2,
        |g, p| clients::rust("rustls", g, p, false),
        url("GET https://shop.test:{port}/orders/rustls?key=…"),
    ),
    row(
        "Rust reqwest (rustls), stripped",
        Place::Https,
        |g, p| clients::rust("rustls", g, p, true),
        HANDSHAKE,
    ),
    row(
        "Rust reqwest (native-tls)",
        Place::Https,
        |g, p| clients::rust("native-tls", g, p, false),
        url("GET https://shop.test:{port}/orders/native-tls?key=…"),
    ),
    row(
        "Rust reqwest (native-tls), stripped",
        Place::Http2,
        |g, p| clients::rust("native-tls", g, p, true),
        url("GET https://shop.test:{port}/orders/native-tls?key=…"),
    ),
    row(
        "Ruby Net::HTTP",
        Place::Https,
        clients::ruby,
        url("GET https://shop.test:{port}/orders/net-http?key=…"),
    ),
    row("Erlang httpc", Place::Https, clients::erlang, HANDSHAKE),
    row(
        "PHP curl",
        Place::Http2,
        clients::php,
        url("GET https://shop.test:{port}/orders/php?key=…"),
    ),
    row(
        "PHP curl",
        Place::Https,
        clients::php,
        url("GET https://shop.test:{port}/orders/php?key=…"),
    ),
    row(
        "curl (OpenSSL 3)",
        Place::Proxy,
        |g, p| clients::by_proxy(|p| clients::curl(g, p, "--http1.1"), p),
        url("GET https://shop.test:8443/feed/curl?key=…"),
    ),
    row(
        "Python requests",
        Place::Proxy,
        |g, p| clients::by_proxy(|p| clients::python("requests", g, p), p),
        url("GET https://shop.test:8443/orders/requests?key=…"),
    ),
    row(
        "Java HttpsURLConnection",
        Place::Proxy,
        clients::java_by_proxy,
        TUNNEL,
    ),
    row(
        "Rust reqwest (rustls)",
        Place::Proxy,
        |g, p| clients::by_proxy(|p| clients::rust("rustls", g, p, false), p),
        url("GET https://shop.test:8443/orders/rustls?key=…"),
    ),
    row(
        "Rust reqwest (rustls), stripped",
        Place::Proxy,
        |g, p| clients::by_proxy(|p| clients::rust("rustls", g, p, true), p),
        TUNNEL,
    ),
    row(
        "Python grpcio",
        Place::Grpc,
        |g, p| clients::grpc("http", g, p),
        url("POST http://shop.test:{port}/shop.Orders/Get"),
    ),
    // its library is in the extension, without symbols
    row(
        "Python grpcio",
        Place::GrpcTls,
        |g, p| clients::grpc("https", g, p),
        HANDSHAKE,
    ),
    row(
        "grpc-go",
        Place::Grpc,
        |g, p| clients::grpc_go("", g, p),
        url("POST http://shop.test:{port}/fixture.Log/Watch"),
    ),
    row(
        "grpc-go",
        Place::GrpcTls,
        |g, p| clients::grpc_go("https://", g, p),
        url("POST https://shop.test:{port}/fixture.Log/Watch"),
    ),
    row(
        "psql",
        Place::Postgres,
        clients::psql,
        protocol("postgres://shop.test:{port}/orders"),
    ),
    row(
        "Python psycopg",
        Place::Postgres,
        clients::psycopg,
        protocol("postgres://shop.test:{port}/orders"),
    ),
    row(
        "Node pg",
        Place::Postgres,
        clients::node_pg,
        protocol("postgres://shop.test:{port}/orders"),
    ),
    row(
        "Java JDBC",
        Place::Postgres,
        clients::jdbc,
        protocol("postgres://shop.test:{port}"),
    ),
    row(
        "redis-cli",
        Place::Redis,
        |g, p| clients::redis_cli(g, p, &[]),
        protocol("redis://127.0.0.1:{port}/3"),
    ),
    row(
        "redis-cli",
        Place::RedisTls,
        |g, p| clients::redis_cli(g, p, &["--tls", "--sni", "shop.test"]),
        protocol("redis://shop.test:{port}/3"),
    ),
    row(
        "mosquitto_sub",
        Place::Mqtt,
        |g, p| clients::mosquitto_sub(g, p, false),
        protocol("mqtt://127.0.0.1:{port}"),
    ),
    row(
        "mosquitto_sub",
        Place::MqttTls,
        |g, p| clients::mosquitto_sub(g, p, true),
        protocol("mqtt://shop.test:{port}"),
    ),
    row(
        "mariadb",
        Place::MariaDb,
        |g, p| clients::mariadb_client(g, p, false),
        protocol("mysql://127.0.0.1:{port}/orders"),
    ),
    // its handshake names no server
    row(
        "mariadb, TLS",
        Place::MariaDb,
        |g, p| clients::mariadb_client(g, p, true),
        protocol("mysql://127.0.0.1:{port}/orders"),
    ),
    row(
        "mariadb",
        Place::MariaDbUnix,
        |g, p| clients::mariadb_client(g, p, false),
        protocol("mysql+unix://{path}/orders"),
    ),
    row(
        "Python pymysql, TLS",
        Place::MariaDb,
        clients::pymysql,
        protocol("mysql://shop.test:{port}/orders"),
    ),
    accepted(row(
        "accepted, from curl",
        Place::Https,
        |g, p| clients::curl(g, p, "--http1.1"),
        ACCEPTED,
    )),
    accepted(row(
        "accepted, from curl",
        Place::Http2,
        |g, p| clients::curl(g, p, "--http2"),
        ACCEPTED,
    )),
    accepted(row(
        "accepted, from mosquitto_sub",
        Place::MqttTls,
        |g, p| clients::mosquitto_sub(g, p, true),
        ACCEPTED,
    )),
];
