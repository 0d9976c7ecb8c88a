// A client's socket in the event loop: input as it comes, output through a bounded buffer, and an
// end that does not cut off what was sent.
#pragma once

#include <tcpmux/backend.hpp>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "tools/demo/event_loop.h"

namespace demo {

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  static constexpr std::size_t kOutputBytesMax = 64 * 1024;
  static constexpr std::size_t kInputBytesMax = 16 * 1024;  // in one call of on_input

  // Called from the loop only, never from within a function below. The stream may be let go there.
  struct Handlers {
    std::function<void(std::string_view)> on_input;
    std::function<void()> on_all_sent = [] {};  // after send() could not write everything at once
    std::function<void()> on_end;               // nothing more will happen: let the stream go
  };

  // The client's socket is non-blocking. The stream is watched until the last reference to it goes.
  static std::shared_ptr<Stream> make(EventLoop& loop, tcpmux::Client client, Handlers handlers);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  // False when more than kOutputBytesMax would wait; nothing of it is taken then.
  bool send(std::string_view bytes);
  bool all_sent() const { return output_.empty(); }
  // While paused, no input is read: for those who cannot get rid of what they make of it.
  void pause(bool paused);
  // Sends what waits, then says that this is the end.
  void finish();

 private:
  Stream(EventLoop& loop, tcpmux::Client client, Handlers handlers);
  void handle(std::uint32_t events);
  void read_some();
  void write_some();
  void half_close();
  void update_events();

  EventLoop& loop_;
  tcpmux::Client client_;
  Handlers handlers_;
  std::string output_;
  bool paused_ = false;
  bool finishing_ = false;    // no more input is wanted
  bool half_closed_ = false;  // finishing, and all is sent
  bool ended_ = false;        // the client has gone, or has said that it sends no more
};

}  // namespace demo
