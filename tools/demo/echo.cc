// echo: what one sends comes back (RFC 862).
#include <map>
#include <utility>

#include "tools/demo/service.h"
#include "tools/demo/stream.h"

namespace demo {
namespace {

class Echo : public Service {
 public:
  explicit Echo(EventLoop& loop) : loop_(loop) {}

  void take(tcpmux::Client client) override {
    const int key = next_key_++;
    Stream::Handlers handlers;
    handlers.on_input = [this, key](std::string_view bytes) { reply(*streams_.at(key), bytes); };
    handlers.on_all_sent = [this, key] { streams_.at(key)->pause(false); };
    handlers.on_end = [this, key] { streams_.erase(key); };
    streams_[key] = Stream::make(loop_, std::move(client), std::move(handlers));
  }

  void finish() override {
    for (const auto& [key, stream] : streams_)
      stream->finish();
  }
  std::size_t clients() const override { return streams_.size(); }

 private:
  // A client that sends and does not read is not read either: one call's input always fits.
  static void reply(Stream& stream, std::string_view bytes) {
    static_assert(Stream::kInputBytesMax <= Stream::kOutputBytesMax);
    stream.send(bytes);
    stream.pause(!stream.all_sent());
  }

  EventLoop& loop_;
  int next_key_ = 0;
  std::map<int, std::shared_ptr<Stream>> streams_;
};

}  // namespace

std::unique_ptr<Service> make_echo(EventLoop& loop) {
  return std::make_unique<Echo>(loop);
}

}  // namespace demo
