//! What a process inherited from whoever started it.

#![allow(unsafe_code)]

/// Marks every descriptor beyond stderr as not to be passed on to programs we start.
pub fn keep_descriptors_from_children() {
    // SAFETY: close_range(2) with CLOSE_RANGE_CLOEXEC closes nothing and takes no pointer; it only
    // sets the close-on-exec flag of descriptors this process has. An old kernel answers EINVAL.
    // By number: musl has no function of that name.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
    }
}
