//! Interfaces of this network namespace, by index.

use std::ffi::CStr;

use crate::error::Error;

/// The interface's name.
pub(crate) fn name(ifindex: u32) -> Result<String, Error> {
    let mut buffer = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: the buffer has IF_NAMESIZE bytes, which is what the call asks for.
    let found = unsafe { libc::if_indextoname(ifindex, buffer.as_mut_ptr()) };
    if found.is_null() {
        return Err(Error::NoInterface(ifindex));
    }
    // SAFETY: on success the buffer holds a string that ends in a zero byte.
    let name = unsafe { CStr::from_ptr(buffer.as_ptr()) };
    Ok(name.to_string_lossy().into_owned())
}

/// Whether there is such an interface.
pub(crate) fn exists(ifindex: u32) -> bool {
    name(ifindex).is_ok()
}

/// Takes the interface down, so that no packet passes where a program is missing. Best effort: what is gone
/// needs no taking down.
pub(crate) fn take_down(ifindex: u32) {
    let Ok(name) = name(ifindex) else { return };
    // SAFETY: a plain socket call; the descriptor is closed below.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return;
    }
    // SAFETY: `ifreq` is plain data, all zero is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()).take(libc::IF_NAMESIZE - 1) {
        *to = from as libc::c_char;
    }
    // SAFETY: the request is a valid `ifreq` that lives through both calls; `ifr_flags` is what
    // SIOCGIFFLAGS fills.
    unsafe {
        if libc::ioctl(socket, libc::SIOCGIFFLAGS, &mut request) == 0 {
            request.ifr_ifru.ifru_flags &= !(libc::IFF_UP as libc::c_short);
            libc::ioctl(socket, libc::SIOCSIFFLAGS, &request);
        }
        libc::close(socket);
    }
}
