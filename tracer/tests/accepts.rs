//! Listeners and connections of kinds that are easily missed. Both ends are threads of this process,
//! over loopback.

mod common;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail, ensure};
use tracer::testing::Probes;
use tracer_ebpf::{
    ListenKey, ROLE_CLIENT, ROLE_SERVER, SOCK_ACCEPT_UNOWNED, SOCK_PREEXISTING, Sock,
};
use tracer_tests::{runner, wait};

use self::common::load_for_us;

tracer_tests::tests![
    a_listener_of_mptcp_accepts_tcp,
    connections_of_mptcp_are_one_each,
    a_port_is_known_while_one_socket_listens_on_it,
    an_ipv4_address_in_an_ipv6_socket_is_one,
];

fn main() -> ExitCode {
    runner::main(&[TESTS])
}

/// A socket of Multipath TCP; skips where the kernel has none.
fn mptcp() -> Result<OwnedFd> {
    // SAFETY: a system call on numbers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP) };
    if fd < 0 {
        bail!(runner::Skip("this kernel has no MPTCP".to_owned()));
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn loopback(port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from(Ipv4Addr::LOCALHOST).to_be(),
        },
        sin_zero: [0; 8],
    }
}

fn check(what: &str, result: i32) -> Result<()> {
    if result < 0 {
        return Err(std::io::Error::last_os_error()).context(what.to_owned());
    }
    Ok(())
}

/// Binds to a free port, or this one, and listens.
fn listen(socket: OwnedFd, port: u16) -> Result<TcpListener> {
    let address = loopback(port);
    let size = size_of_val(&address) as u32;
    // SAFETY: a valid address of that size.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    check("bind", bound)?;
    // SAFETY: a system call on numbers.
    check("listen", unsafe { libc::listen(socket.as_raw_fd(), 16) })?;
    Ok(TcpListener::from(socket))
}

fn connect(socket: OwnedFd, port: u16) -> Result<TcpStream> {
    let address = loopback(port);
    let size = size_of_val(&address) as u32;
    // SAFETY: a valid address of that size.
    let result = unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), size) };
    check("connect", result)?;
    Ok(TcpStream::from(socket))
}

fn of_port(probes: &Probes, port: u16) -> Result<Vec<Sock>> {
    let mut found = Vec::new();
    probes.socks.for_each(|_, sock| {
        if sock.local_port == port || sock.remote_port == port {
            found.push(*sock);
        }
    })?;
    found.sort_by_key(|sock| sock.role);
    Ok(found)
}

fn exchange(client: &mut TcpStream, server: &mut TcpStream) -> Result<()> {
    let mut room = [0; 4];
    client.write_all(b"ping")?;
    server.read_exact(&mut room)?;
    server.write_all(b"pong")?;
    client.read_exact(&mut room)?;
    Ok(())
}

/// The two ends of one connection, both by their events, not by a scan.
fn both_ends(probes: &Probes, port: u16) -> Result<(Sock, Sock)> {
    let found = of_port(probes, port)?;
    let [client, server] = found[..] else {
        bail!("{} records: {found:?}", found.len());
    };
    for (sock, role) in [(client, ROLE_CLIENT), (server, ROLE_SERVER)] {
        ensure!(
            sock.role == role
                && sock.tgid == std::process::id()
                && sock.flags & (SOCK_ACCEPT_UNOWNED | SOCK_PREEXISTING) == 0
                && (sock.sent_ticks, sock.received_ticks) != (0, 0),
            "{sock:?}"
        );
    }
    ensure!(
        client.remote_port == port && server.local_port == port,
        "{found:?}"
    );
    let local = u32::from(Ipv4Addr::LOCALHOST).to_be();
    ensure!(
        client.remote_addr == [local, 0, 0, 0] && server.remote_addr == [local, 0, 0, 0],
        "{found:?}"
    );
    Ok((client, server))
}

fn wait_for_none(probes: &Probes, port: u16) -> Result<()> {
    wait::until(
        "the end of both",
        std::time::Duration::from_secs(10),
        || Ok(of_port(probes, port)?.is_empty()),
    )
}

fn a_listener_of_mptcp_accepts_tcp() -> Result<()> {
    let mut probes = load_for_us()?;
    // one from before, which the scan finds, and one that is seen to listen
    let old = listen(mptcp()?, 0)?;
    probes.run_scan(0)?;
    let new = listen(mptcp()?, 0)?;
    for listener in [old, new] {
        let address = listener.local_addr()?;
        let mut client = TcpStream::connect(address)?;
        let (mut server, _) = listener.accept()?;
        exchange(&mut client, &mut server)?;
        both_ends(&probes, address.port())?;
        probes.run_scan(1)?;
        let found = of_port(&probes, address.port())?;
        ensure!(
            found
                .iter()
                .all(|sock| sock.fd().is_some() && sock.scan == 1),
            "{found:?}"
        );
        drop((client, server));
        wait_for_none(&probes, address.port())?;
    }
    Ok(())
}

fn connections_of_mptcp_are_one_each() -> Result<()> {
    let mut probes = load_for_us()?;
    let listener = listen(mptcp()?, 0)?;
    let port = listener.local_addr()?.port();
    let mut client = connect(mptcp()?, port)?;
    let (mut server, _) = listener.accept()?;
    exchange(&mut client, &mut server)?;
    both_ends(&probes, port)?;
    probes.run_scan(1)?;
    let found = of_port(&probes, port)?;
    ensure!(
        found.len() == 2
            && found
                .iter()
                .all(|sock| sock.fd().is_some() && sock.unread == 0),
        "{found:?}"
    );
    drop(client);
    wait::until(
        "the end at the server",
        std::time::Duration::from_secs(10),
        || {
            Ok(of_port(&probes, port)?.iter().any(|sock| {
                sock.role == ROLE_SERVER && sock.flags & tracer_ebpf::SOCK_PEER_CLOSED != 0
            }))
        },
    )?;
    drop(server);
    wait_for_none(&probes, port)?;

    // to a server of plain TCP
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let mut client = connect(mptcp()?, port)?;
    let (mut server, _) = listener.accept()?;
    exchange(&mut client, &mut server)?;
    both_ends(&probes, port)?;
    drop((client, server));
    wait_for_none(&probes, port)?;

    // to nobody
    drop(listener);
    ensure!(connect(mptcp()?, port).is_err(), "nobody listens there");
    let mut errors = Vec::new();
    probes
        .errors
        .for_each(|key, &number| errors.push((key.error, number)))?;
    ensure!(
        errors
            .iter()
            .all(|&(error, _)| error == libc::ECONNREFUSED as u32),
        "{errors:?}"
    );
    wait_for_none(&probes, port)
}

fn shared(port: u16) -> Result<TcpListener> {
    // SAFETY: a system call on numbers.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    check("socket", fd)?;
    // SAFETY: the kernel has just made this descriptor for us.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let yes = 1;
    let size = size_of_val(&yes) as u32;
    // SAFETY: an option of that size.
    let set = unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_REUSEPORT);
        libc::setsockopt(fd, level, option, (&raw const yes).cast(), size)
    };
    check("SO_REUSEPORT", set)?;
    listen(socket, port)
}

fn a_port_is_known_while_one_socket_listens_on_it() -> Result<()> {
    let mut probes = load_for_us()?;
    let first = shared(0)?;
    let port = first.local_addr()?.port();
    let second = shared(port)?;
    probes.run_scan(0)?;
    probes.run_scan(1)?;
    let sockets = |probes: &Probes| -> Result<Vec<u32>> {
        let mut found = Vec::new();
        probes.listeners.for_each(|key: &ListenKey, value| {
            if key.port == u32::from(port) {
                found.push(value.sockets);
            }
        })?;
        Ok(found)
    };
    ensure!(sockets(&probes)? == [2], "{:?}", sockets(&probes)?);
    drop(first);
    ensure!(sockets(&probes)? == [1], "{:?}", sockets(&probes)?);
    let mut client = TcpStream::connect(("127.0.0.1", port))?;
    let (mut server, _) = second.accept()?;
    exchange(&mut client, &mut server)?;
    both_ends(&probes, port)?;
    drop(second);
    ensure!(sockets(&probes)?.is_empty(), "{:?}", sockets(&probes)?);
    Ok(())
}

fn an_ipv4_address_in_an_ipv6_socket_is_one() -> Result<()> {
    let probes = load_for_us()?;
    let listener = TcpListener::bind("[::]:0")?;
    let port = listener.local_addr()?.port();
    let mapped: SocketAddr = format!("[::ffff:127.0.0.1]:{port}").parse()?;
    let mut client = TcpStream::connect(mapped)?;
    let (mut server, _) = listener.accept()?;
    exchange(&mut client, &mut server)?;
    let (client, server) = both_ends(&probes, port)?;
    let inet = libc::AF_INET as u8;
    ensure!(
        (client.family, server.family) == (inet, inet),
        "{client:?}, {server:?}"
    );
    Ok(())
}
