// whoami: tells a client who it is as the backend sees it, and what the mux said of it; then ends.
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <utility>

#include "tools/demo/service.h"
#include "tools/demo/stream.h"

namespace demo {
namespace {

std::string peer_of(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getpeername(socket, reinterpret_cast<sockaddr*>(&address), &size) < 0) return "gone";
  char text[64];
  return tcpmux_address_text(&address, text, sizeof text);
}

std::string utc_text(std::chrono::nanoseconds since_1970) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(since_1970);
  const std::time_t time = seconds.count();
  std::tm parts{};
  ::gmtime_r(&time, &parts);
  char date[32];
  char text[64];
  std::strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &parts);
  std::snprintf(text, sizeof text, "%s.%06lld UTC", date,
                static_cast<long long>((since_1970 - seconds).count() / 1000));
  return text;
}

std::string describe(const tcpmux::Client& client) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto took = std::chrono::duration_cast<std::chrono::microseconds>(now - client.accepted());
  return "you are      " + peer_of(client.socket()) + "\r\n" +            //
         "the mux says " + client.source_text() + "\r\n" +                //
         "you asked    " + client.destination_text() + "\r\n" +           //
         "for          " + client.service() + "\r\n" +                    //
         "connection   " + client.id_text() + "\r\n" +                    //
         "accepted     " + utc_text(client.accepted()) + "\r\n" +         //
         "served by    process " + std::to_string(::getpid()) + "\r\n" +  //
         "with us in   " + std::to_string(took.count()) + " us, your request included\r\n";
}

class Whoami : public Service {
 public:
  Whoami(EventLoop& loop, Counts& counts) : loop_(loop), counts_(counts) {}

  void take(tcpmux::Client client) override {
    const int key = next_key_++;
    const std::string text = describe(client);
    Stream::Handlers handlers;
    handlers.on_input = [](std::string_view) {};
    handlers.on_end = [this, key] { streams_.erase(key); };
    const std::shared_ptr<Stream> stream =
        Stream::make(loop_, std::move(client), std::move(handlers));
    streams_[key] = stream;
    stream->send(text);
    counts_.answered();
    stream->finish();
  }

  void finish() override {}
  std::size_t clients() const override { return streams_.size(); }

 private:
  EventLoop& loop_;
  Counts& counts_;
  int next_key_ = 0;
  std::map<int, std::shared_ptr<Stream>> streams_;
};

}  // namespace

std::unique_ptr<Service> make_whoami(EventLoop& loop, Counts& counts) {
  return std::make_unique<Whoami>(loop, counts);
}

}  // namespace demo
