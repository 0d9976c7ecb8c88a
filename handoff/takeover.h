// The new side of an upgrade: a daemon that was started by the one whose place it takes
// (upgrade_channel.h has the conversation). Until serving() the other one still serves, and an
// error here costs nothing but the attempt.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/base/result.h"
#include "core/server/event_loop.h"
#include "core/server/listen.h"
#include "core/server/messages.h"
#include "handoff/guardian.h"
#include "handoff/registry.h"
#include "handoff/upgrade_channel.h"

namespace tcpmux::handoff {

class Takeover {
 public:
  // Nothing: nobody is to be replaced. The variable that says so is removed. Forks (guardian.h), so
  // that it is to be called before there are threads.
  static Result<std::optional<Takeover>> from_environment();

  // What the other one offers: to be called once, first.
  Status receive_offer();
  std::string registry_path() const { return registry_path_; }
  std::size_t lane_count() const { return lane_count_; }
  RegistrySocket take_registry();
  std::size_t address_count() const { return addresses_.size(); }
  std::vector<OfferedAddress> take_addresses() { return std::move(addresses_); }

  // Tells that everything is made; waits for backends and lanes, and gives them to `registry`.
  Status take_everything(Registry& registry);
  // Everything is ours from now on, and the shards are to serve at once. An error: the other one
  // lives and was not told, so it goes on.
  Status serving();
  // Why there will be no serving().
  void failed(const std::string& why);

  // Handshakes that began there come in as `client`, until the other one has gone: `gone`.
  using TakeClient = std::function<void(PassedConnection client, const std::string& service)>;
  Status listen(EventLoop& loop, TakeClient client, std::function<void()> gone);

 private:
  Takeover(UpgradeChannel channel, Guardian guardian)
      : channel_(std::move(channel)), guardian_(std::move(guardian)) {}
  Status receive_offer_message(UpgradeMessage message);
  void receive_client();

  UpgradeChannel channel_;
  Guardian guardian_;
  std::string registry_path_;
  OwnFd registry_socket_;
  OwnFd registry_lock_;
  std::size_t lane_count_ = 0;
  std::vector<OfferedAddress> addresses_;
  EventLoop* loop_ = nullptr;
  TakeClient take_client_;
  std::function<void()> gone_;
};

}  // namespace tcpmux::handoff
