// tcpmux-demo: backends to try tcpmuxd with, and an example of a program over libtcpmux that has
// an event loop of its own. What concerns the library is all in this file.
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <tcpmux/backend.hpp>
#include <utility>
#include <vector>

#include "tools/demo/counts.h"
#include "tools/demo/event_loop.h"
#include "tools/demo/service.h"
#include "tools/demo/workers.h"

namespace demo {
namespace {

constexpr std::chrono::milliseconds kPauseWithoutDescriptors{100};
constexpr std::chrono::milliseconds kFinishCheck{10};
constexpr int kFinishChecksMax = 100;  // a second for our clients to be done

struct Options {
  std::vector<std::string> services;
  tcpmux::BackendOptions backend;
  bool quiet = false;
  bool count = false;
  std::string count_file;
  int workers = 0;
};

class Program {
 public:
  // Where there is no `backend` yet, it registers.
  explicit Program(Options options, std::unique_ptr<tcpmux::Backend> backend = nullptr)
      : options_(std::move(options)), backend_(std::move(backend)) {
    if (!options_.count_file.empty()) counts_.keep_in(options_.count_file);
    for (const std::string& name : options_.services) {
      received_[name] = 0;
      services_[name] = make(name);
    }
  }

  int run() {
    loop_.on_signal(SIGTERM, [this] { finish(); });
    loop_.on_signal(SIGINT, [this] { finish(); });
    loop_.on_signal(SIGUSR1, [this] { print_counts(); });
    if (backend_ == nullptr)
      backend_ = std::make_unique<tcpmux::Backend>(options_.services, options_.backend);
    loop_.watch(backend_->descriptor(), EPOLLIN, [this](std::uint32_t) { accept_all(); });
    accept_all();
    loop_.run();
    if (options_.count) print_counts();
    return status_;
  }

 private:
  std::unique_ptr<Service> make(const std::string& name) {
    if (name == "whoami") return make_whoami(loop_, counts_);
    if (name == "chat") return make_chat(loop_, counts_);
    if (name == "discard") return make_discard(counts_);
    return make_echo(loop_, counts_);
  }

  // Until the library has nothing more for us: it may hold several clients at a time.
  void accept_all() {
    tcpmux::Client client;
    tcpmux_result result = TCPMUX_OK;
    while (result == TCPMUX_OK || result == TCPMUX_LOST) {
      result = receive(client);
      if (result == TCPMUX_LOST) complain();
      if (result == TCPMUX_OK) dispatch(std::move(client));
    }
    say_state();
    if (result == TCPMUX_NO_DESCRIPTORS) pause_accepting();
    if (result == TCPMUX_REFUSED || result == TCPMUX_ERROR) {
      complain();
      status_ = 1;
      finish();
    }
  }

  // Whoever has come with a message is counted before the first of them is served.
  tcpmux_result receive(tcpmux::Client& client) {
    counts_.receiving(true);
    const tcpmux_result result = backend_->try_accept(client);
    counts_.received(backend_->counters().sockets);
    counts_.receiving(false);
    return result;
  }

  void dispatch(tcpmux::Client client) {
    const auto found = services_.find(client.service());
    if (found == services_.end()) return;  // we never registered that; closed
    ++received_[client.service()];
    found->second->take(std::move(client));
  }

  // We are out of descriptors, not out of clients: they wait with the mux until one of ours ends.
  void pause_accepting() {
    complain();
    loop_.forget(backend_->descriptor());
    loop_.after(kPauseWithoutDescriptors, [this] {
      if (backend_ == nullptr) return;
      loop_.watch(backend_->descriptor(), EPOLLIN, [this](std::uint32_t) { accept_all(); });
    });
  }

  void say_state() {
    const tcpmux_state state = backend_->state();
    const std::uint64_t registrations = backend_->counters().registrations;
    if (state == TCPMUX_SERVING && registrations != registrations_said_) {
      say((registrations > 1 ? "the mux is back: serving " : "serving ") + names() + " via " +
          path());
      registrations_said_ = registrations;
    } else if (state != state_said_ && state == TCPMUX_WAITING) {
      say(registrations == 0 ? "no mux at " + path() + " yet, waiting for it"
                             : "the mux has gone, waiting for it at " + path());
    } else if (state != state_said_ && state == TCPMUX_DRAINING) {
      say(std::string(backend_->error()));
    }
    state_said_ = state;
  }

  // No more clients, then a goodbye to the mux, then to those whom we serve.
  void finish() {
    if (backend_ == nullptr) return loop_.stop();  // asked twice
    backend_->drain();
    tcpmux::Client client;
    while (receive(client) == TCPMUX_OK)
      dispatch(std::move(client));
    loop_.forget(backend_->descriptor());
    backend_.reset();
    for (const auto& [name, service] : services_)
      service->finish();
    stop_when_finished(kFinishChecksMax);
  }

  void stop_when_finished(int checks) {
    std::size_t clients = 0;
    for (const auto& [name, service] : services_)
      clients += service->clients();
    if (clients == 0 || checks == 0) return loop_.stop();
    loop_.after(kFinishCheck, [this, checks] { stop_when_finished(checks - 1); });
  }

  void print_counts() const {
    for (const auto& [name, count] : received_)
      std::printf("received %s %llu\n", name.c_str(), static_cast<unsigned long long>(count));
    std::fflush(stdout);
  }

  void say(const std::string& line) const {
    if (options_.quiet) return;
    std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }
  void complain() const {
    std::fprintf(stderr, "tcpmux-demo: %s\n", std::string(backend_->error()).c_str());
  }

  std::string path() const { return std::string(backend_->registry()); }
  std::string names() const {
    std::string text;
    for (const std::string& name : options_.services)
      text += (text.empty() ? "" : ", ") + name;
    return text;
  }

  Options options_;
  std::unique_ptr<tcpmux::Backend> backend_;
  Counts counts_;
  EventLoop loop_;
  std::map<std::string, std::unique_ptr<Service>> services_;
  std::map<std::string, std::uint64_t> received_;
  std::uint64_t registrations_said_ = 0;
  tcpmux_state state_said_ = TCPMUX_SERVING;
  int status_ = 0;
};

constexpr const char* kDescription =
    "Backends to try tcpmuxd with, all in one program.\n\n"
    "  echo     what you send comes back\n"
    "  whoami   tells you your address, and what the mux said of you\n"
    "  chat     a room: what one types, all others see\n"
    "  discard  closes at once (for measuring)\n";
constexpr const char* kExamples =
    "Examples:\n"
    "  tcpmux-demo echo whoami chat\n"
    "  tcpmux-demo --registry /tmp/tcpmux.sock --count discard\n\n"
    "It waits for the mux where there is none yet, and comes back when the mux does. SIGUSR1\n"
    "prints how many clients came to each service; SIGTERM and SIGINT end it.\n\n"
    "A count file has three numbers of 8 bytes, in the machine's order: 1 while clients that are\n"
    "not counted yet may be on their way out of a lane, else 0; clients received, counted before\n"
    "anything is done with them; clients answered. Each process needs a file of its own: with\n"
    "--workers they are PATH.PID.";

// The lanes of one registration, shared by processes: the mux hands each message to one of them.
int run_workers(Options options) {
  options.backend.wait_for_mux = false;  // or each would come to a registration of its own
  auto backend = std::make_unique<tcpmux::Backend>(options.services, options.backend);
  return keep_workers(options.workers, [&] {
    if (!options.count_file.empty()) options.count_file += "." + std::to_string(::getpid());
    return Program(options, std::move(backend)).run();
  });
}

int parse_and_run(int argc, char** argv) {
  CLI::App app(kDescription, "tcpmux-demo");
  app.footer(kExamples);
  Options options;
  options.backend.nonblocking = true;
  options.backend.wait_for_mux = true;
  app.add_option("SERVICE", options.services, "echo, whoami, chat, discard: one or more")
      ->required()
      ->check(CLI::IsMember({"echo", "whoami", "chat", "discard"}).description(""));
  app.add_option("--registry", options.backend.registry,
                 "the mux's registry; else $TCPMUX_REGISTRY, else " TCPMUX_REGISTRY_DEFAULT)
      ->type_name("PATH");
  app.add_option("--window", options.backend.window,
                 "how many clients may wait in one lane (0: what the mux allows)");
  app.add_option("--batch", options.backend.batch, "how many clients a message may bring (0: 8)")
      ->check(CLI::Range(0, 64).description(""));
  app.add_option("--lanes", options.backend.lanes, "how many lanes (0: one for each mux thread)")
      ->check(CLI::Range(0, 64).description(""));
  app.add_flag("--count", options.count, "at the end too, print how many clients came");
  app.add_option("--workers", options.workers,
                 "so many processes share the lanes; who dies is replaced")
      ->check(CLI::Range(1, 256).description(""));
  app.add_option("--count-file", options.count_file,
                 "keep counters there that outlive a kill -9; see below")
      ->type_name("PATH");
  app.add_flag("--quiet", options.quiet, "only say what goes wrong");
  CLI11_PARSE(app, argc, argv);
  // Who does not say them need not be told them.
  options.backend.without_addresses = std::ranges::none_of(
      options.services, [](const std::string& name) { return name == "whoami" || name == "chat"; });
  if (options.workers > 0) return run_workers(std::move(options));
  return Program(std::move(options)).run();
}

}  // namespace
}  // namespace demo

int main(int argc, char** argv) {
  try {
    return demo::parse_and_run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "tcpmux-demo: %s\n", error.what());
    return 1;
  }
}
