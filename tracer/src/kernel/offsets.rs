//! The offsets that the programs need, looked up in BTF.

use thiserror::Error;
use tracer_ebpf::Offsets;

use super::btf::Btf;

/// A structure member without which the programs can't work.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("the kernel's type information has no `struct {structure}` member `{path}`")]
pub struct MissingMember {
    structure: &'static str,
    path: &'static str,
}

/// Looks up every offset.
///
/// # Errors
/// [`MissingMember`] for members that every supported kernel (5.10 and later) has.
pub fn resolve(btf: &Btf) -> Result<Offsets, MissingMember> {
    let must = |structure: &'static str, path: &'static str| {
        btf.field(structure, path)
            .map(|field| field.offset)
            .ok_or(MissingMember { structure, path })
    };
    let maybe =
        |structure: &str, paths: &[&str]| paths.iter().find_map(|path| btf.field(structure, path));
    let offset_or_missing =
        |field: Option<super::btf::Field>| field.map_or(Offsets::MISSING, |f| f.offset);
    let iter_type = maybe("iov_iter", &["iter_type", "type"]);
    Ok(Offsets {
        skc_family: must("sock_common", "skc_family")?,
        skc_state: must("sock_common", "skc_state")?,
        skc_num: must("sock_common", "skc_num")?,
        skc_dport: must("sock_common", "skc_dport")?,
        skc_daddr: must("sock_common", "skc_daddr")?,
        skc_rcv_saddr: must("sock_common", "skc_rcv_saddr")?,
        skc_v6_daddr: must("sock_common", "skc_v6_daddr")?,
        skc_v6_rcv_saddr: must("sock_common", "skc_v6_rcv_saddr")?,
        skc_net: must("sock_common", "skc_net.net")?,
        net_inum: must("net", "ns.inum")?,
        sk_socket: must("sock", "sk_socket")?,
        sk_err: must("sock", "sk_err")?,
        sk_shutdown: must("sock", "sk_shutdown")?,
        sk_type: must("sock", "sk_type")?,
        sk_protocol: must("sock", "sk_protocol")?,
        sk_protocol_size: btf.field("sock", "sk_protocol").map_or(2, |f| f.size),
        sk_wq: offset_or_missing(maybe("sock", &["sk_wq"])),
        wq_waiters: offset_or_missing(maybe("socket_wq", &["wait.head"])),
        sk_receive_qlen: must("sock", "sk_receive_queue.qlen")?,
        socket_file: must("socket", "file")?,
        socket_sk: must("socket", "sk")?,
        socket_ino: must("socket_alloc", "vfs_inode.i_ino")?,
        file_inode: must("file", "f_inode")?,
        file_private_data: must("file", "private_data")?,
        inode_ino: must("inode", "i_ino")?,
        inode_mode: must("inode", "i_mode")?,
        inode_sb: must("inode", "i_sb")?,
        sb_magic: must("super_block", "s_magic")?,
        task_pid: must("task_struct", "pid")?,
        task_tgid: must("task_struct", "tgid")?,
        task_real_parent: must("task_struct", "real_parent")?,
        task_signal: must("task_struct", "signal")?,
        task_stack: must("task_struct", "stack")?,
        task_start_time: must("task_struct", "start_time")?,
        task_fsbase: must("task_struct", "thread.fsbase")?,
        task_files: must("task_struct", "files")?,
        task_cgroups: must("task_struct", "cgroups")?,
        css_set_dfl_cgrp: must("css_set", "dfl_cgrp")?,
        cgroup_level: must("cgroup", "level")?,
        cgroup_ancestor_ids: offset_or_missing(maybe("cgroup", &["ancestor_ids"])),
        files_fdt: must("files_struct", "fdt")?,
        fdt_fd: must("fdtable", "fd")?,
        signal_live: must("signal_struct", "live")?,
        unix_addr: must("unix_sock", "addr")?,
        unix_peer: must("unix_sock", "peer")?,
        unix_address_len: must("unix_address", "len")?,
        unix_address_name: must("unix_address", "name")?,
        tcp_rcv_nxt: must("tcp_sock", "rcv_nxt")?,
        tcp_copied_seq: must("tcp_sock", "copied_seq")?,
        tcp_is_mptcp: offset_or_missing(maybe("tcp_sock", &["is_mptcp"])),
        icsk_ulp_data: must("inet_connection_sock", "icsk_ulp_data")?,
        subflow_conn: offset_or_missing(maybe("mptcp_subflow_context", &["conn"])),
        mptcp_first: offset_or_missing(maybe("mptcp_sock", &["first"])),
        regs_size: btf.struct_size("pt_regs").ok_or(MissingMember {
            structure: "pt_regs",
            path: "(size)",
        })?,
        msg_iter: must("msghdr", "msg_iter")?,
        iter_type: offset_or_missing(iter_type),
        iter_type_size: iter_type.map_or(1, |f| f.size),
        iter_offset: must("iov_iter", "iov_offset")?,
        iter_iov: offset_or_missing(maybe("iov_iter", &["__iov", "iov"])),
        iter_ubuf: offset_or_missing(maybe("iov_iter", &["ubuf"])),
        iter_is_iovec: btf.enumerator("iter_type", "ITER_IOVEC").unwrap_or(0),
        iter_is_ubuf: btf
            .enumerator("iter_type", "ITER_UBUF")
            .unwrap_or(Offsets::MISSING),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::{super::btf::Btf, resolve};

    #[test]
    fn the_running_kernel_has_every_required_member() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            eprintln!("skipped: no /sys/kernel/btf/vmlinux here");
            return;
        };
        let offsets = resolve(&Btf::parse(bytes).unwrap()).unwrap();
        assert_ne!(offsets.iter_iov, tracer_ebpf::Offsets::MISSING);
        assert_ne!(offsets.sk_wq, tracer_ebpf::Offsets::MISSING);
        assert_ne!(offsets.wq_waiters, tracer_ebpf::Offsets::MISSING);
    }
}
