// discard: closes at once, for measuring what comes before.
#include "tools/demo/service.h"

namespace demo {
namespace {

class Discard : public Service {
 public:
  explicit Discard(Counts& counts) : counts_(counts) {}

  void take(tcpmux::Client client) override {
    client.close();
    counts_.answered();
  }
  void finish() override {}
  std::size_t clients() const override { return 0; }

 private:
  Counts& counts_;
};

}  // namespace

std::unique_ptr<Service> make_discard(Counts& counts) {
  return std::make_unique<Discard>(counts);
}

}  // namespace demo
