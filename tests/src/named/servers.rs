//! The servers of the table.

use std::{fs, net::TcpStream, process::Command};

use anyhow::{Context as _, Result, ensure};

use super::{Ground, Where, clients};
use crate::{
    host::{self, seconds},
    languages::{run, source},
    program::Program,
    wait,
};

/// Where a client connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// nginx, HTTP/2 over TLS.
    Http2,
    /// nginx, HTTP/1.1 over TLS.
    Https,
    /// nginx, HTTP/1.1 over a UNIX socket.
    Unix,
    /// A proxy whose tunnels end at a server of HTTPS.
    Proxy,
    /// gRPC in the clear.
    Grpc,
    /// gRPC over TLS.
    GrpcTls,
    /// PostgreSQL, which demands TLS.
    Postgres,
    /// Redis.
    Redis,
    /// Redis over TLS.
    RedisTls,
    /// mosquitto.
    Mqtt,
    /// mosquitto over TLS.
    MqttTls,
    /// MariaDB.
    MariaDb,
    /// MariaDB, by its UNIX socket.
    MariaDbUnix,
}

/// A server that runs.
#[derive(Debug)]
pub struct Service {
    program: Program,
    ports: Vec<(Place, u16)>,
    path: String,
}

impl Place {
    /// As the table names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Place::Http2 => "nginx, TLS, HTTP/2",
            Place::Https => "nginx, TLS, HTTP/1.1",
            Place::Unix => "nginx, UNIX socket",
            Place::Proxy => "a proxy's tunnel, TLS",
            Place::Grpc => "gRPC (Python)",
            Place::GrpcTls => "gRPC (Python), TLS",
            Place::Postgres => "PostgreSQL, TLS",
            Place::Redis => "redis-server",
            Place::RedisTls => "redis-server, TLS",
            Place::Mqtt => "mosquitto",
            Place::MqttTls => "mosquitto, TLS",
            Place::MariaDb => "MariaDB",
            Place::MariaDbUnix => "MariaDB, UNIX socket",
        }
    }

    /// The program that serves there.
    #[must_use]
    pub const fn server(self) -> &'static str {
        match self {
            Place::Http2 | Place::Https | Place::Unix => "nginx",
            Place::Proxy => "proxy",
            Place::Grpc | Place::GrpcTls => "gRPC",
            Place::Postgres => "PostgreSQL",
            Place::Redis | Place::RedisTls => "redis-server",
            Place::Mqtt | Place::MqttTls => "mosquitto",
            Place::MariaDb | Place::MariaDbUnix => "MariaDB",
        }
    }

    /// Starts that program.
    ///
    /// # Errors
    /// When it can't be had or does not start.
    pub fn start(self, ground: &Ground) -> Result<Service> {
        match self {
            Place::Http2 | Place::Https | Place::Unix => nginx(ground),
            Place::Proxy => proxy(ground),
            Place::Grpc | Place::GrpcTls => grpc(ground),
            Place::Postgres => postgres(ground),
            Place::Redis | Place::RedisTls => redis(ground),
            Place::Mqtt | Place::MqttTls => mosquitto(ground),
            Place::MariaDb | Place::MariaDbUnix => mariadb(ground),
        }
        .with_context(|| self.server())
    }
}

impl Service {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.program.pid()
    }

    /// Waits until all ports answer.
    fn started(command: &mut Command, ports: &[(Place, u16)], path: String) -> Result<Service> {
        let mut program = Program::start(command)?;
        wait::until("a server that listens", seconds(60), || {
            ensure!(program.runs()?, "it ended: {}", program.stderr());
            let answers =
                |(_, port): &(Place, u16)| TcpStream::connect(("127.0.0.1", *port)).is_ok();
            Ok(ports.iter().all(answers))
        })?;
        Ok(Service {
            program,
            ports: ports.to_vec(),
            path,
        })
    }

    /// Where it serves a place.
    #[must_use]
    pub fn place(&self, place: Place) -> Where<'_> {
        let port = self.ports.iter().find(|(of, _)| *of == place);
        Where {
            port: port.map_or(0, |(_, port)| *port),
            path: &self.path,
        }
    }
}

fn nginx(ground: &Ground) -> Result<Service> {
    let [h2, h1] = [host::free_port()?, host::free_port()?];
    let folder = ground.folder("nginx")?;
    let at = folder.display();
    let socket = format!("{at}/shop.sock");
    fs::write(folder.join("feed"), vec![b'.'; 1 << 20])?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {at}/{name};\n"))
        .concat();
    // a feed is sent byte by byte, and never ends
    let configuration = format!(
        "daemon off;
master_process off;
pid {at}/pid;
error_log stderr;
events {{}}
http {{
  access_log off;
  keepalive_timeout 600s;
  {temporary}
  ssl_certificate {};
  ssl_certificate_key {};
  ssl_protocols TLSv1.2 TLSv1.3;
  server {{
    listen 127.0.0.1:{h2} ssl http2;
    listen 127.0.0.1:{h1} ssl;
    listen unix:{socket};
    location / {{ return 200 \"fine\"; }}
    location ~ ^/feed/ {{ alias {at}/feed; limit_rate_after 4k; limit_rate 1; }}
  }}
}}
",
        ground.certificate.display(),
        ground.key.display(),
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = ground.debian("nginx", &["nginx", "nginx-common"], "usr/sbin/nginx")?;
    command
        .arg("-p")
        .arg(&folder)
        .arg("-c")
        .arg(&file)
        .args(["-e", "stderr"]);
    let ports = [(Place::Http2, h2), (Place::Https, h1)];
    Service::started(&mut command, &ports, socket)
}

fn proxy(ground: &Ground) -> Result<Service> {
    let port = host::free_port()?;
    let mut command = Command::new(host::tool("python3")?);
    command
        .arg(source("names/proxy.py"))
        .arg(port.to_string())
        .arg(&ground.certificate)
        .arg(&ground.key);
    Service::started(&mut command, &[(Place::Proxy, port)], String::new())
}

fn grpc(ground: &Ground) -> Result<Service> {
    let ports = [
        (Place::Grpc, host::free_port()?),
        (Place::GrpcTls, host::free_port()?),
    ];
    let mut command = Command::new(clients::python_with_drivers()?);
    command
        .arg(source("names/orders.py"))
        .args(ports.map(|(_, port)| port.to_string()))
        .arg(&ground.certificate)
        .arg(&ground.key);
    Service::started(&mut command, &ports, String::new())
}

/// It refuses to run as root, so it runs as somebody else in a user namespace, who is root outside.
fn postgres(ground: &Ground) -> Result<Service> {
    let port = host::free_port()?;
    let folder = ground.folder("postgres")?;
    let data = folder.join("data");
    let program = |name: &str| -> Result<Command> {
        let program = ground.postgres(name)?;
        let mut command = Command::new(host::tool("unshare")?);
        command
            .args(["--user", "--map-user=1000", "--map-group=1000"])
            .arg(program.get_program());
        Ok(command)
    };
    run(program("initdb")?.arg("--pgdata").arg(&data).args([
        "--username",
        "shop",
        "--auth",
        "trust",
        "--no-sync",
    ]))?;
    fs::write(
        data.join("pg_hba.conf"),
        "hostssl all all 127.0.0.1/32 trust\nlocal all all trust\n",
    )?;
    let mut command = program("postgres")?;
    command.arg("-D").arg(&data);
    for setting in [
        format!("port={port}"),
        "listen_addresses=127.0.0.1".to_owned(),
        // programs that forget connections have dozens each
        "max_connections=400".to_owned(),
        format!("unix_socket_directories={}", folder.display()),
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", ground.certificate.display()),
        format!("ssl_key_file={}", ground.key.display()),
    ] {
        command.args(["-c", &setting]);
    }
    let path = folder.to_string_lossy().into_owned();
    let service = Service::started(&mut command, &[(Place::Postgres, port)], path.clone())?;
    let port = port.to_string();
    wait::until("a database", seconds(30), || {
        let made = run(ground.postgres("psql")?.args([
            "--host",
            &path,
            "--port",
            &port,
            "--username",
            "shop",
            "--command",
            "create database orders",
            "postgres",
        ]));
        Ok(made.is_ok())
    })?;
    Ok(service)
}

fn redis(ground: &Ground) -> Result<Service> {
    let [port, tls] = [host::free_port()?, host::free_port()?];
    let mut command = clients::redis(ground, "redis-server")?;
    command
        .args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--tls-auth-clients",
            "no",
        ])
        .args(["--port", &port.to_string(), "--tls-port", &tls.to_string()])
        .arg("--tls-cert-file")
        .arg(&ground.certificate)
        .arg("--tls-key-file")
        .arg(&ground.key)
        .arg("--tls-ca-cert-file")
        .arg(&ground.certificate)
        .current_dir(ground.folder("redis")?);
    let ports = [(Place::Redis, port), (Place::RedisTls, tls)];
    Service::started(&mut command, &ports, String::new())
}

fn mosquitto(ground: &Ground) -> Result<Service> {
    let [port, tls] = [host::free_port()?, host::free_port()?];
    let file = ground.folder("mosquitto")?.join("mosquitto.conf");
    fs::write(
        &file,
        format!(
            "user root\nallow_anonymous true\nlistener {port} 127.0.0.1\nlistener {tls} 127.0.0.1\n\
             certfile {}\nkeyfile {}\n",
            ground.certificate.display(),
            ground.key.display()
        ),
    )?;
    let mut command = clients::mosquitto(ground, "usr/sbin/mosquitto")?;
    command.arg("-c").arg(&file);
    let ports = [(Place::Mqtt, port), (Place::MqttTls, tls)];
    Service::started(&mut command, &ports, String::new())
}

fn mariadb(ground: &Ground) -> Result<Service> {
    let port = host::free_port()?;
    let folder = ground.folder("mariadb")?;
    let data = folder.join("data");
    fs::create_dir_all(data.join("orders"))?;
    let socket = folder.join("mariadb.sock");
    let mut command = clients::mariadb(ground, "usr/sbin/mariadbd")?;
    let usr = std::path::Path::new(command.get_program())
        .ancestors()
        .nth(2)
        .context("no folder")?
        .to_owned();
    command
        .args([
            "--no-defaults",
            "--user=root",
            "--skip-grant-tables",
            "--bind-address=127.0.0.1",
        ])
        .arg(format!("--port={port}"))
        .arg(format!("--basedir={}", usr.display()))
        .arg(format!("--datadir={}", data.display()))
        .arg(format!("--socket={}", socket.display()))
        .arg(format!("--ssl-cert={}", ground.certificate.display()))
        .arg(format!("--ssl-key={}", ground.key.display()))
        .args([
            "--skip-networking=0",
            "--innodb-buffer-pool-size=16M",
            "--skip-log-bin",
        ]);
    let socket = socket.to_string_lossy().into_owned();
    Service::started(&mut command, &[(Place::MariaDb, port)], socket)
}
