// Constants of the kernel's io_uring interface that liburing 2.3 and its copy of the kernel's
// header lack. They are ABI: they never change.
#pragma once

namespace tcpmux::uring_abi {

inline constexpr unsigned kSetupNoSqArray = 1U << 16;  // IORING_SETUP_NO_SQARRAY, Linux 6.6

}  // namespace tcpmux::uring_abi
