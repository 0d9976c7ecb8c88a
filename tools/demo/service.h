// A service of the demo: takes clients, and keeps them as long as they stay.
#pragma once

#include <tcpmux/backend.hpp>

#include <cstddef>
#include <memory>

#include "tools/demo/counts.h"
#include "tools/demo/event_loop.h"

namespace demo {

class Service {
 public:
  virtual ~Service() = default;
  // The client's socket is non-blocking. Who is answered is counted.
  virtual void take(tcpmux::Client client) = 0;
  // Says goodbye to all.
  virtual void finish() = 0;
  virtual std::size_t clients() const = 0;
};

// One file each. `loop` and `counts` outlive the service.
std::unique_ptr<Service> make_echo(EventLoop& loop, Counts& counts);
std::unique_ptr<Service> make_whoami(EventLoop& loop, Counts& counts);
std::unique_ptr<Service> make_chat(EventLoop& loop, Counts& counts);
std::unique_ptr<Service> make_discard(Counts& counts);

}  // namespace demo
