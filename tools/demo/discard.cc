// discard: closes at once, for measuring what comes before.
#include "tools/demo/service.h"

namespace demo {
namespace {

class Discard : public Service {
 public:
  void take(tcpmux::Client client) override { client.close(); }
  void finish() override {}
  std::size_t clients() const override { return 0; }
};

}  // namespace

std::unique_ptr<Service> make_discard() {
  return std::make_unique<Discard>();
}

}  // namespace demo
