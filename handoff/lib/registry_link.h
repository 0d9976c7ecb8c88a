// The connection to the mux's registry, from the backend's side.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>

#include "core/base/fd.h"
#include "core/base/result.h"
#include "handoff/message.h"

namespace tcpmux::handoff {

// What the mux said.
struct RegistryEvent {
  enum class Kind {
    kNothing,        // or something that we do not know
    kWelcome,        // welcome and lanes
    kRefuse,         // refuse
    kDrain,          //
    kGoodbye,        //
    kNoDescriptors,  // a welcome whose lanes did not fit into our descriptor table
    kGone,           // the connection has ended
    kMalformed,      // text says how
  };
  Kind kind = Kind::kNothing;
  Welcome welcome;
  std::array<OwnFd, kLanesMax> lanes;  // the first welcome.lanes are valid
  Refuse refuse;
  std::string text;  // what a person should be told, where there is something to tell
};

class RegistryLink {
 public:
  // Connects and sends a Register. Never waits: a registry whose backlog is full is an error.
  Status open(const std::string& path, std::span<const std::byte> registration);
  void close() { socket_.reset(); }
  bool connected() const { return socket_.valid(); }
  int fd() const { return socket_.get(); }

  // Takes one message; never waits. The connection stays open, whatever is in it.
  RegistryEvent receive(std::span<std::byte> buffer);
  // Where the mux is gone already this does nothing.
  void say(MessageType type);

 private:
  OwnFd socket_;
};

}  // namespace tcpmux::handoff
