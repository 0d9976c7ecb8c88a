#include "tests/sim/process.h"

#include <algorithm>

#include "tests/sim/registry_kernel.h"

namespace tcpmux::sim {
namespace {

// Places for names that nobody configured.
constexpr std::uint32_t kServicesAhead = 3;

}  // namespace

ShardSettings settings_of(const Context& context) {
  ShardSettings settings;
  settings.connections_max = static_cast<std::uint32_t>(context.dials[Dial::kSlots]);
  settings.line_bytes_max = static_cast<std::uint32_t>(context.dials[Dial::kLineBytesMax]);
  settings.handshake_deadline_ns = context.ms(Dial::kHandshakeMs);
  settings.room_wait_ns = context.ms(Dial::kRoomWaitMs);
  settings.handoff_deadline_ns = context.ms(Dial::kHandoffMs);
  return settings;
}

handoff::RegistryOptions registry_options_of(const Context& context) {
  const Dials& dials = context.dials;
  const std::int64_t lanes = (dials[Dial::kBackends] + 2) * dials[Dial::kShards];
  const std::int64_t wanted = 2 * lanes + dials[Dial::kBackends] + 4;
  handoff::RegistryOptions options;
  options.path = "/run/tcpmux/registry.sock";
  options.open = dials[Dial::kOpenRegistry] != 0;
  options.users = {kUser};
  options.window_max = static_cast<std::uint32_t>(dials[Dial::kWindow]);
  options.batch_max = static_cast<std::uint16_t>(dials[Dial::kBatch]);
  options.lanes_per_shard_max = static_cast<std::uint32_t>(dials[Dial::kLanesPerShard]);
  options.descriptors_max =
      static_cast<std::uint32_t>(wanted * dials[Dial::kBackendDescriptors] / 100);
  options.windows_max = static_cast<std::uint64_t>(dials[Dial::kWindowsSum]);
  options.register_within_ns = context.ms(Dial::kRegisterMs);
  return options;
}

Process::Process(SimBackend::Parts parts, std::uint32_t number,
                 std::shared_ptr<const ServiceTable> table, handoff::RegistryOptions options,
                 const Process* before)
    : first(number),
      mail(parts.context, parts.kernel, parts.ledger,
           static_cast<std::uint32_t>(parts.context.dials[Dial::kShards]), number),
      steward(static_cast<std::size_t>(parts.context.dials[Dial::kMailbox])) {
  make_registry(parts.kernel, table, std::move(options), before);
  const auto shards = static_cast<std::uint32_t>(parts.context.dials[Dial::kShards]);
  for (std::uint32_t i = 0; i < shards; ++i)
    make_seat(parts, i, table);
}

void Process::make_registry(Kernel& kernel, std::shared_ptr<const ServiceTable> table,
                            handoff::RegistryOptions options, const Process* before) {
  loop = *EventLoop::create();
  options.services_max =
      static_cast<std::uint32_t>(table->size()) + (options.open ? kServicesAhead : 0);
  if (before == nullptr) {
    auto opened = handoff::Registry::open(std::move(options), *loop, std::move(table),
                                          mail.seen_by_registry());
    if (!opened) broken(0, opened.error().message);
    registry = *std::move(opened);
    return;
  }
  auto socket = handoff::RegistrySocket::take_over(
      options.path, OwnFd(kernel.duplicate(before->registry->lock_fd())),
      OwnFd(kernel.duplicate(before->registry->socket_fd())));
  registry = handoff::Registry::take_over(std::move(options), std::move(socket), *loop,
                                          std::move(table), mail.seen_by_registry());
}

void Process::make_seat(const SimBackend::Parts& parts, std::uint32_t number,
                        const std::shared_ptr<const ServiceTable>& table) {
  Context& context = parts.context;
  seats.push_back(std::make_unique<Seat>());
  Seat& seat = *seats.back();
  seat.number = first + number;
  ShardOptions options;
  static_cast<ShardSettings&>(options) = settings_of(context);
  options.number = number;
  ShardListener listener;
  listener.socket = OwnFd(parts.kernel.open({File::Kind::kListener, kNobody, number}));
  options.listeners.push_back(std::move(listener));
  options.busy_max = static_cast<std::uint32_t>(context.dials[Dial::kBusySlots]);
  options.taken_back_max = static_cast<std::uint32_t>(context.dials[Dial::kTakenBackSlots]);
  seat.slots = options.connections_max + options.busy_max + options.taken_back_max;
  auto engine = std::make_unique<SimBackend>(parts, seat.number, number);
  seat.engine = engine.get();
  handoff::RouterOptions router;
  router.shard = number;
  router.services_max = registry->services_max();
  router.lanes_max = static_cast<std::uint32_t>(context.dials[Dial::kLanesPerShard]);
  router.stall_ns = context.ms(Dial::kStallMs);
  router.deadline_ns = context.ms(Dial::kHandoffMs);
  router.steward = &steward;
  router.routes_version = registry->routes_version(number);
  const ShardLinks links{.own = mail.own(number), .all = mail.seen_by(number), .steward = steward};
  seat.shard = std::make_unique<Seat::SimShard>(std::move(options), std::move(engine), links,
                                                seat.counters, table, router);
}

void Process::begin(Context& context, Kernel& kernel) {
  for (const auto& seat : seats) {
    context.shard = seat->number;
    for (const int fd : std::exchange(mail.connections_in(seat->number - first), {}))
      kernel.give_to(fd, seat->number);
    seat->shard->begin();
  }
  context.shard = kNobody;
}

void Process::post_all(ShardMessage::Kind kind, std::int64_t deadline_ns) {
  for (std::uint32_t i = 0; i < size(); ++i) {
    ShardMessage message;
    message.kind = kind;
    message.deadline_ns = deadline_ns;
    mail.post(i, std::move(message));
  }
}

bool Process::has_ended() const {
  return std::all_of(seats.begin(), seats.end(), [](const auto& seat) { return seat->ended; });
}

std::uint64_t Process::routes_version() const {
  std::uint64_t version = UINT64_MAX;
  for (std::uint32_t shard = 0; shard < size(); ++shard)
    version = std::min(version, registry->routes_version(shard)->load());
  return version;
}

}  // namespace tcpmux::sim
