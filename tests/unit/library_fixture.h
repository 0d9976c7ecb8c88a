// What the tests of libtcpmux share: a fake mux, and a handle that was opened at it.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <tcpmux/backend.h>

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/unit/fake_mux.h"

namespace tcpmux::handoff {

struct CloseBackend {
  void operator()(tcpmux_backend* backend) const { tcpmux_close(backend); }
};
using Handle = std::unique_ptr<tcpmux_backend, CloseBackend>;

inline int open_descriptors() {
  DIR* folder = ::opendir("/proc/self/fd");
  int count = -1;  // the folder's own
  while (::readdir(folder) != nullptr)
    ++count;
  ::closedir(folder);
  return count;
}

// One accept, kept: the facts would be gone with the next.
struct Accepted {
  tcpmux_result result = TCPMUX_ERROR;
  OwnFd socket;
  std::string service;
  std::string client;
  std::string destination;
  int id = -1;  // the last byte
  std::int64_t accepted_ns = 0;
};

inline Accepted accept_one(const Handle& handle, int timeout_ms = 0) {
  Accepted accepted;
  int socket = 12345;
  const tcpmux_facts* facts = nullptr;
  accepted.result = tcpmux_accept(handle.get(), timeout_ms, &socket, &facts);
  accepted.socket = OwnFd(socket);
  EXPECT_EQ(accepted.result == TCPMUX_OK, accepted.socket.valid());
  if (accepted.result != TCPMUX_OK) return accepted;
  char text[64];
  accepted.service = facts->service;
  accepted.client = tcpmux_address_text(&facts->client, text, sizeof text);
  accepted.destination = tcpmux_address_text(&facts->destination, text, sizeof text);
  accepted.id = facts->id[15];
  accepted.accepted_ns = facts->accepted_ns;
  return accepted;
}

class LibraryTest : public ::testing::Test {
 protected:
  LibraryTest() {
    options_.registry = mux_.path().c_str();
    options_.retry_first_ms = 1;
    options_.retry_last_ms = 20;
    options_.open_timeout_ms = kPatience_ms;
  }

  tcpmux_result open(Handle& handle) {
    tcpmux_backend* raw = nullptr;
    const char* names[] = {"echo"};
    const tcpmux_result result = tcpmux_open(&raw, names, 1, &options_);
    handle.reset(raw);
    return result;
  }

  // Opens, while `mux` does what a mux does to the registration.
  template <class Script>
  tcpmux_result open_while(Handle& handle, Script&& script) {
    std::thread mux([&] { script(registration_ = mux_.next()); });
    const tcpmux_result result = open(handle);
    mux.join();
    return result;
  }

  Handle open_welcomed(std::uint16_t lanes = 1, std::uint16_t batch = 8) {
    Handle handle;
    const auto script = [&](FakeRegistration& asked) { asked.welcome(lanes, batch); };
    EXPECT_EQ(open_while(handle, script), TCPMUX_OK) << tcpmux_error(nullptr);
    return handle;
  }

  // Lets the backend find this mux again, from within accept, which finds nobody.
  void welcome_again(const Handle& handle, std::uint16_t lanes = 1) {
    std::thread mux([&] {
      registration_ = mux_.next();
      registration_.welcome(lanes);
    });
    const std::uint64_t before = tcpmux_get_counters(handle.get())->registrations;
    while (tcpmux_get_counters(handle.get())->registrations == before &&
           readable(tcpmux_descriptor(handle.get())))
      EXPECT_EQ(accept_one(handle).result, TCPMUX_EMPTY);
    mux.join();
    EXPECT_EQ(tcpmux_get_state(handle.get()), TCPMUX_SERVING);
  }

  FakeMux mux_;
  FakeRegistration registration_;
  tcpmux_options options_ = TCPMUX_OPTIONS_INIT;
};

}  // namespace tcpmux::handoff
