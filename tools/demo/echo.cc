// echo: what one sends comes back (RFC 862).
#include <map>
#include <utility>

#include "tools/demo/service.h"
#include "tools/demo/stream.h"

namespace demo {
namespace {

class Echo : public Service {
 public:
  Echo(EventLoop& loop, Counts& counts) : loop_(loop), counts_(counts) {}

  void take(tcpmux::Client client) override {
    const int key = next_key_++;
    Stream::Handlers handlers;
    handlers.on_input = [this, key](std::string_view bytes) { reply(sessions_.at(key), bytes); };
    handlers.on_all_sent = [this, key] { sessions_.at(key).stream->pause(false); };
    handlers.on_end = [this, key] { sessions_.erase(key); };
    sessions_[key] = {.stream = Stream::make(loop_, std::move(client), std::move(handlers))};
  }

  void finish() override {
    for (const auto& [key, session] : sessions_)
      session.stream->finish();
  }
  std::size_t clients() const override { return sessions_.size(); }

 private:
  struct Session {
    std::shared_ptr<Stream> stream;
    bool answered = false;
  };

  // A client that sends and does not read is not read either: one call's input always fits.
  void reply(Session& session, std::string_view bytes) {
    static_assert(Stream::kInputBytesMax <= Stream::kOutputBytesMax);
    session.stream->send(bytes);
    session.stream->pause(!session.stream->all_sent());
    if (!std::exchange(session.answered, true)) counts_.answered();
  }

  EventLoop& loop_;
  Counts& counts_;
  int next_key_ = 0;
  std::map<int, Session> sessions_;
};

}  // namespace

std::unique_ptr<Service> make_echo(EventLoop& loop, Counts& counts) {
  return std::make_unique<Echo>(loop, counts);
}

}  // namespace demo
