//! System calls on sockets, by their return: the last resort, because whoever looks there is
//! called at every system call of the host. Numbers are those of x86-64
//! (arch/x86/entry/syscalls/syscall_64.tbl).

use core::mem::offset_of;

use super::{
    accepts,
    helpers::current_task,
    kernel::{AF_UNIX, Address, family, read, read_user},
    task::{UserRegs, current_is_target},
    transfers::{MSG_PEEK, Transfer, transferred},
};
use crate::offset;

const EINPROGRESS: i64 = 115;
/// Offset of `msg_len` in `struct mmsghdr` (include/linux/socket.h).
const MMSG_LEN: u64 = 56;

/// The system call's arguments, which stay in the saved registers until it returns.
struct Call {
    regs: Address,
}

impl Call {
    #[inline(always)]
    fn number(&self) -> u64 {
        read(self.regs, offset_of!(UserRegs, orig_ax))
    }

    #[inline(always)]
    fn descriptor(&self) -> i32 {
        read::<u64>(self.regs, offset_of!(UserRegs, di)) as i32
    }

    #[inline(always)]
    fn argument2(&self) -> u64 {
        read(self.regs, offset_of!(UserRegs, si))
    }

    #[inline(always)]
    fn argument3(&self) -> u64 {
        read(self.regs, offset_of!(UserRegs, dx))
    }

    #[inline(always)]
    fn argument4(&self) -> u64 {
        read(self.regs, offset_of!(UserRegs, r10))
    }
}

/// A call that may have sent or received returned `result`.
#[inline(always)]
pub fn transfer_returned(regs: Address, result: i64) {
    if result <= 0 || !current_is_target() {
        return;
    }
    let call = Call { regs };
    let (sent, flags, several) = match call.number() {
        // write, writev, sendto, sendmsg, sendfile
        1 | 20 | 44 | 46 | 40 => (true, 0, false),
        // sendmmsg
        307 => (true, 0, true),
        // read, readv
        0 | 19 => (false, 0, false),
        // recvfrom
        45 => (false, call.argument4(), false),
        // recvmsg
        47 => (false, call.argument3(), false),
        // recvmmsg
        299 => (false, call.argument4(), true),
        _ => return,
    };
    if flags as i32 & MSG_PEEK != 0 {
        return;
    }
    let sk = socket(call.descriptor());
    if sk == 0 {
        return;
    }
    let bytes = if several {
        read_user::<u32>(call.argument2() + MMSG_LEN) as i32
    } else {
        result as i32
    };
    let transfer = if sent {
        Transfer::Sent
    } else {
        Transfer::Received
    };
    transferred(sk, bytes, transfer);
}

/// A call that may have connected or accepted returned `result`.
#[inline(always)]
pub fn opening_returned(regs: Address, result: i64) {
    if (result < 0 && result != -EINPROGRESS) || !current_is_target() {
        return;
    }
    let call = Call { regs };
    match call.number() {
        // connect; TCP's is seen by its states
        42 => {
            let sk = socket(call.descriptor());
            if sk != 0 && family(sk) == AF_UNIX {
                accepts::unix_opened(sk, 0);
            }
        }
        // accept, accept4
        43 | 288 => {
            let sk = socket(result as i32);
            if sk == 0 {
                return;
            }
            if family(sk) == AF_UNIX {
                accepts::unix_opened(sk, 0);
            } else {
                accepts::accepted(sk);
            }
        }
        _ => {}
    }
}

/// The `struct sock *` behind a descriptor of the current process, 0 when it is something else.
#[inline(always)]
pub fn socket(fd: i32) -> Address {
    if fd < 0 {
        return 0;
    }
    let task: Address = current_task();
    let files: Address = read(task, offset!(task_files));
    let table: Address = read(files, offset!(files_fdt));
    let array: Address = read(table, offset!(fdt_fd));
    let file: Address = read(array, fd as usize * size_of::<u64>());
    let socket: Address = read(file, offset!(file_private_data));
    // a descriptor of something else has other private data; a socket points back
    if file == 0 || read::<Address>(socket, offset!(socket_file)) != file {
        return 0;
    }
    read(socket, offset!(socket_sk))
}
