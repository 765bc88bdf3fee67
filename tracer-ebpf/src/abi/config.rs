//! What user space tells the programs before they are loaded: read-only globals.

/// Watch every process of the host.
pub const FILTER_HOST: u32 = 0;
/// Watch the processes in the `TARGETS` map and whatever they fork.
pub const FILTER_PROCESS: u32 = 1;
/// Watch the processes below one cgroup v2.
pub const FILTER_CGROUP: u32 = 2;

/// Index into `SCAN`: number of the running descriptor scan; 0: only look for listening sockets.
pub const SCAN_NUMBER: u32 = 0;
/// Index into `SCAN`: descriptors of target processes whose socket found no room in this scan.
pub const SCAN_UNSTORED: u32 = 1;

/// Settings of one tracing session; the read-only global `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
pub struct Config {
    /// Id of the target cgroup (`FILTER_CGROUP`): the inode number of its directory.
    pub cgroup_id: u64,
    /// Depth of the target cgroup below the root; the root has level 0.
    pub cgroup_level: u32,
    /// One of the `FILTER_*` constants.
    pub filter: u32,
    /// Nonzero: keep the first bytes of HTTP/1 requests.
    pub want_heads: u32,
    /// Take user stacks: 0 none, 1 at the opening or the first use, 2 also of each request.
    pub want_stacks: u32,
    /// Stack copies one process may cost per second before further ones are counted and skipped.
    pub copies_per_second: u32,
    /// The tracer's own process, which is never watched.
    pub own_tgid: u32,
    /// Nonzero: the kernel has `bpf_task_pt_regs` and `bpf_get_current_task_btf` (5.15).
    pub have_task_regs: u32,
    /// Nonzero: process hooks are attached, so `TARGETS` follows forks by itself.
    pub follow_forks: u32,
    /// Number of this set of programs, see `ACTIVE`; 0: no other set shares the maps.
    pub generation: u32,
    /// Explicit padding.
    pub pad: u32,
}

/// Key of `CALLS`, private to the programs: a call of a kernel function under way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CallKey {
    /// Process and thread, as `bpf_get_current_pid_tgid` gives them.
    pub thread: u64,
    /// Which function.
    pub function: u64,
}

/// Value of `CALLS`: arguments that its return probe needs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallValue {
    /// The kernel's `struct sock *` (`struct socket *` where there is no sock yet).
    pub sk: u64,
    /// The call's flags.
    pub flags: u64,
    /// Bytes that it was seen to have copied so far.
    pub copied: u64,
}

macro_rules! offsets {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// Byte offsets of kernel structure members, resolved from BTF; the read-only global
        /// `OFFSETS`. A member this kernel lacks has the value [`Offsets::MISSING`].
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[cfg_attr(feature = "user", derive(bytemuck::Pod, bytemuck::Zeroable))]
        pub struct Offsets { $($(#[doc = $doc])* pub $name: u32,)* }
    };
}

offsets! {
    /// `struct sock_common`.`skc_family`
    skc_family,
    /// `struct sock_common`.`skc_state`
    skc_state,
    /// `struct sock_common`.`skc_num`: local port, host byte order
    skc_num,
    /// `struct sock_common`.`skc_dport`: remote port, network byte order
    skc_dport,
    /// `struct sock_common`.`skc_daddr`
    skc_daddr,
    /// `struct sock_common`.`skc_rcv_saddr`
    skc_rcv_saddr,
    /// `struct sock_common`.`skc_v6_daddr`
    skc_v6_daddr,
    /// `struct sock_common`.`skc_v6_rcv_saddr`
    skc_v6_rcv_saddr,
    /// `struct sock_common`.`skc_net.net`
    skc_net,
    /// `struct net`.`ns.inum`
    net_inum,
    /// `struct sock`.`sk_socket`
    sk_socket,
    /// `struct sock`.`sk_err`
    sk_err,
    /// `struct sock`.`sk_shutdown`
    sk_shutdown,
    /// `struct sock`.`sk_type` (u16, or a bit field before 5.6)
    sk_type,
    /// `struct sock`.`sk_protocol`
    sk_protocol,
    /// Size of `sk_protocol` in bytes (1 before 5.6, then 2)
    sk_protocol_size,
    /// `struct sock`.`sk_wq`: who waits for it
    sk_wq,
    /// `struct socket_wq`.`wait.head`: the list of those
    wq_waiters,
    /// `struct sock`.`sk_receive_queue.qlen`
    sk_receive_qlen,
    /// `struct socket`.`file`
    socket_file,
    /// `struct socket`.`sk`
    socket_sk,
    /// `struct socket_alloc`.`vfs_inode.i_ino`; its `socket` is at 0
    socket_ino,
    /// `struct file`.`f_inode`
    file_inode,
    /// `struct file`.`private_data`
    file_private_data,
    /// `struct inode`.`i_ino`
    inode_ino,
    /// `struct inode`.`i_mode`
    inode_mode,
    /// `struct inode`.`i_sb`
    inode_sb,
    /// `struct super_block`.`s_magic`
    sb_magic,
    /// `struct task_struct`.`pid`: the thread's id
    task_pid,
    /// `struct task_struct`.`tgid`: the process id
    task_tgid,
    /// `struct task_struct`.`real_parent`
    task_real_parent,
    /// `struct task_struct`.`signal`
    task_signal,
    /// `struct task_struct`.`stack`
    task_stack,
    /// `struct task_struct`.`start_time`, nanoseconds of `CLOCK_MONOTONIC`
    task_start_time,
    /// `struct task_struct`.`thread.fsbase` (x86-64): where thread-local storage is
    task_fsbase,
    /// `struct task_struct`.`files`
    task_files,
    /// `struct task_struct`.`cgroups`
    task_cgroups,
    /// `struct css_set`.`dfl_cgrp`: the cgroup v2
    css_set_dfl_cgrp,
    /// `struct cgroup`.`level`: 0 at the root
    cgroup_level,
    /// `struct cgroup`.`ancestor_ids` (before 6.1)
    cgroup_ancestor_ids,
    /// `struct files_struct`.`fdt`
    files_fdt,
    /// `struct fdtable`.`fd`
    fdt_fd,
    /// `struct signal_struct`.`live`
    signal_live,
    /// `struct unix_sock`.`addr`
    unix_addr,
    /// `struct unix_sock`.`peer`
    unix_peer,
    /// `struct unix_address`.`len`
    unix_address_len,
    /// `struct unix_address`.`name`
    unix_address_name,
    /// `struct tcp_sock`.`rcv_nxt`
    tcp_rcv_nxt,
    /// `struct tcp_sock`.`copied_seq`
    tcp_copied_seq,
    /// `struct tcp_sock`.`is_mptcp` (with `CONFIG_MPTCP`)
    tcp_is_mptcp,
    /// `struct inet_connection_sock`.`icsk_ulp_data`: of a subflow its `mptcp_subflow_context`
    icsk_ulp_data,
    /// `struct mptcp_subflow_context`.`conn`: the connection of a subflow
    subflow_conn,
    /// `struct mptcp_sock`.`first`: the first subflow of a connection
    mptcp_first,
    /// Size of `struct pt_regs`
    regs_size,
    /// `struct msghdr`.`msg_iter`
    msg_iter,
    /// `struct iov_iter`.`iter_type` (`type` before 5.14)
    iter_type,
    /// Size of `iter_type` in bytes (1, or 4 before 5.14)
    iter_type_size,
    /// `struct iov_iter`.`iov_offset`
    iter_offset,
    /// `struct iov_iter`.`__iov` (`iov` before 6.4)
    iter_iov,
    /// `struct iov_iter`.`ubuf` (6.0)
    iter_ubuf,
    /// Value of `ITER_IOVEC`
    iter_is_iovec,
    /// Value of `ITER_UBUF` (6.0)
    iter_is_ubuf,
}

impl Offsets {
    /// The value of a member that this kernel does not have.
    pub const MISSING: u32 = u32::MAX;
}

const _: () = assert!(size_of::<Config>() == 48 && align_of::<Config>() == 8);
const _: () = assert!(size_of::<Offsets>().is_multiple_of(4) && align_of::<Offsets>() == 4);
