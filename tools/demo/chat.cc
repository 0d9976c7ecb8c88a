// chat: a room. What one types, all others see.
#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tools/demo/service.h"
#include "tools/demo/stream.h"

namespace demo {
namespace {

constexpr std::size_t kLineBytesMax = 1024;

struct Member {
  std::shared_ptr<Stream> stream;
  std::string name;
  std::string line;  // typed so far
};

class Chat : public Service {
 public:
  Chat(EventLoop& loop, Counts& counts) : loop_(loop), counts_(counts) {}

  void take(tcpmux::Client client) override {
    const int key = next_key_++;
    const std::string from = client.source_text();
    Stream::Handlers handlers;
    handlers.on_input = [this, key](std::string_view bytes) { hear(key, bytes); };
    handlers.on_end = [this, key] { leave(key, "leaves"); };
    Member& member = members_[key];
    member.name = "guest" + std::to_string(key);
    member.stream = Stream::make(loop_, std::move(client), std::move(handlers));
    member.stream->send("* you are " + member.name + "; here: " + std::to_string(members_.size()) +
                        "; what you type, all others see\r\n");
    counts_.answered();
    tell_all_but(key, "* " + member.name + " (" + from + ") joins");
  }

  void finish() override {
    for (const auto& [key, member] : members_) {
      member.stream->send("* the room closes\r\n");
      member.stream->finish();
    }
  }
  std::size_t clients() const override { return members_.size(); }

 private:
  void hear(int key, std::string_view bytes) {
    for (const char byte : bytes) {
      const auto found = members_.find(key);
      if (found == members_.end()) return;  // was too slow for an announcement that it caused
      Member& member = found->second;
      const bool full = member.line.size() >= kLineBytesMax;
      if (byte == '\n' || full) {
        const std::string line = member.name + ": " + std::exchange(member.line, {});
        tell_all_but(key, line);
      }
      // Control characters could play tricks on the others' terminals.
      const auto code = static_cast<unsigned char>(byte);
      const auto still_here = members_.find(key);
      if (still_here != members_.end() && code >= 0x20 && code != 0x7F)
        still_here->second.line += byte;
    }
  }

  // A member that does not keep up may not hold up the others, nor our memory: it has to go.
  void tell_all_but(int speaker, const std::string& line) {
    std::vector<int> too_slow;
    for (const auto& [key, member] : members_) {
      if (key != speaker && !member.stream->send(line + "\r\n")) too_slow.push_back(key);
    }
    for (const int key : too_slow)
      leave(key, "was too slow and is gone");
  }

  void leave(int key, const std::string& how) {
    const auto found = members_.find(key);
    if (found == members_.end()) return;
    const std::string name = found->second.name;
    members_.erase(found);
    tell_all_but(key, "* " + name + " " + how);
  }

  EventLoop& loop_;
  Counts& counts_;
  int next_key_ = 1;
  std::map<int, Member> members_;
};

}  // namespace

std::unique_ptr<Service> make_chat(EventLoop& loop, Counts& counts) {
  return std::make_unique<Chat>(loop, counts);
}

}  // namespace demo
