// Backends, the part about the registry: what they say to it, and what they do about its answers.
// What it may answer is in backends_checks.cc.
#include <fmt/format.h>

#include <algorithm>

#include "tests/sim/backends.h"

namespace tcpmux::sim {

using handoff::MessageType;

namespace {

constexpr std::int64_t kSpeaks_ns = 2 * kNanosPerMilli;
constexpr std::int64_t kHears_ns = 50 * kMicro_ns;
constexpr std::int64_t kTriesAgain_ns = 10 * kNanosPerMilli;
constexpr std::int64_t kGoesOn_ns = 80 * kNanosPerMilli;
constexpr std::int64_t kTwin_ns = 20 * kNanosPerMilli;
constexpr std::int64_t kDeaf_ns = 300 * kNanosPerMilli;
constexpr std::uint32_t kOddOnesMax = 6;
constexpr std::size_t kHeaderVersion = 4;  // where its byte is

}  // namespace

Backends::Backends(Parts parts)
    : context_(parts.context),
      kernel_(parts.kernel),
      clients_(parts.clients),
      ledger_(parts.ledger),
      registry_(parts.registry),
      limits_(registry_options_of(parts.context)),
      places_max_(static_cast<std::size_t>(context_.dials[Dial::kBackends]) + kOddOnesMax),
      shards_(static_cast<std::uint32_t>(parts.context.dials[Dial::kShards])) {
  // References to them stay good.
  processes_.reserve(places_max_);
  kernel_.set_reader(this);
  registry_.set_reader(this);
}

SimProcess* Backends::who_has(std::uint32_t connection) {
  SimProcess& process = processes_[registry_[connection].backend];
  return process.id != 0 && process.connection == connection ? &process : nullptr;
}

// --- coming ---

void Backends::register_missing() {
  if (closed_ || context_.now_ns < not_before_ns_) return;
  if (shutting_down_ && context_.random.below(8) != 0) return;
  const auto there = std::count_if(processes_.begin(), processes_.end(),
                                   [](const auto& one) { return one.id != 0 && !one.leaving; });
  if (there < context_.dials[Dial::kBackends]) start_one();
  if (context_.fault(Dial::kRegistersAgain)) register_again();
}

SimProcess* Backends::start_one() {
  std::uint32_t place = 0;
  while (place < processes_.size() && processes_[place].id != 0)
    ++place;
  if (place == places_max_) return nullptr;
  if (place == processes_.size()) processes_.emplace_back();
  SimProcess& process = processes_[place];
  process.is_stranger = false;
  choose(process);
  process.connection = registry_.connect(place, process.is_stranger ? kStranger : kUser);
  if (process.connection == kNoConnection) {
    clear(process);
    not_before_ns_ = context_.now_ns + context_.random.skewed(kTriesAgain_ns);
    return nullptr;
  }
  process.id = next_id_++;
  context_.note(What::kConnectsToRegistry, process.id, process.connection);
  process.deaf = context_.fault(Dial::kDeaf);
  if (process.deaf) leave_soon(process, kDeaf_ns);
  if (context_.fault(Dial::kNeverRegisters)) {
    leave_soon(process, 2 * limits_.register_within_ns + kDeaf_ns);
    return &process;
  }
  context_.schedule(context_.random.skewed(kSpeaks_ns), Happening::Kind::kBackendSpeaks, place,
                    process.generation);
  return &process;
}

void Backends::choose(SimProcess& process) {
  Random& random = context_.random;
  handoff::Register& asks = process.asks;
  asks = {};
  const bool raw = context_.fault(Dial::kRaw);
  const auto services = static_cast<std::uint32_t>(context_.dials[Dial::kServices]);
  const std::uint32_t first = random.below(services);
  const std::uint32_t second = raw ? first : random.below(services);
  process.services = 1U << first | 1U << second;
  asks.names.push_back(service_name(first));
  if (second != first) asks.names.push_back(service_name(second));
  asks.window = static_cast<std::uint32_t>(random.between(0, context_.dials[Dial::kWindow]));
  asks.batch =
      static_cast<std::uint16_t>(raw ? 1 : random.between(1, context_.dials[Dial::kBatch]));
  asks.lanes = context_.fault(Dial::kOneLane) ? 1 : 0;
  asks.without_addresses = false;
  if (raw)
    asks.lane_kind =
        random.below(2) == 0 ? handoff::LaneKind::kRawSeqpacket : handoff::LaneKind::kRawStream;
  if (context_.fault(Dial::kAsksTooMuch)) ask_too_much(process);
}

// A name that nobody configured may be had in an open registry, and more lanes where there is room.
void Backends::ask_too_much(SimProcess& process) {
  Random& random = context_.random;
  handoff::Register& asks = process.asks;
  switch (random.below(5)) {
    case 0:
      process.is_stranger = true;
      return;
    case 1:
      asks.names = {fmt::format("nobody-s-{}", random.below(6))};
      process.services = 0;
      return;
    case 2:
      asks.names.front() = random.below(2) == 0 ? "help" : "with space";
      process.services = 0;
      return;
    case 3:
      asks.window = UINT32_MAX >> random.below(16);
      return;
    default:
      asks.lanes = static_cast<std::uint16_t>(1 + random.below(handoff::kLanesMax));
      return;
  }
}

// The same names on another connection; one of the two goes before long.
void Backends::register_again() {
  const auto found = std::find_if(processes_.begin(), processes_.end(),
                                  [](const auto& one) { return one.welcomed && !one.leaving; });
  if (found == processes_.end()) return;
  const std::uint32_t first = place_of(*found);
  SimProcess* const twin = start_one();
  if (twin == nullptr || twin->is_stranger || twin->leaving) return;
  context_.note(What::kTwin, processes_[first].id, static_cast<std::int64_t>(twin->id));
  twin->asks = processes_[first].asks;
  twin->services = processes_[first].services;
  leave_soon(context_.random.below(2) == 0 ? processes_[first] : *twin, kTwin_ns);
}

void Backends::say(SimProcess& process, std::vector<std::byte> message, bool is_to_be_answered) {
  if (process.connection == kNoConnection) return;
  RegistryConnection& connection = registry_[process.connection];
  const auto bytes = static_cast<std::int64_t>(message.size());
  context_.note(What::kSpeaks, process.id, bytes);
  registry_.send(process.connection, std::move(message));
  if (is_to_be_answered) connection.asked_ns = std::min(connection.asked_ns, context_.now_ns);
}

// Random bytes, a Register that is cut, a version that nobody speaks, a second Register.
void Backends::say_rubbish(SimProcess& process) {
  Random& random = context_.random;
  process.rubbish = true;
  std::vector<std::byte> message = handoff::encode(process.asks);
  const std::uint32_t kind = random.below(process.has_asked ? 4 : 3);
  if (kind == 0) {
    message.resize(1 + random.below(40));
    for (std::byte& byte : message)
      byte = static_cast<std::byte>(random.below(256));
    message.front() = std::byte{'x'};
  } else if (kind == 1) {
    message.resize(1 + random.below(static_cast<std::uint32_t>(message.size() - 1)));
  } else if (kind == 2) {
    message[kHeaderVersion] = std::byte{2};
    process.other_version = true;
  }
  context_.note(What::kLoses, process.id, static_cast<std::int64_t>(message.size()));
  say(process, std::move(message), true);
  look_who_is_able();
}

// Its Register; where it has sent one, a second.
void Backends::speak(std::uint32_t place, std::uint32_t generation) {
  SimProcess& process = processes_[place];
  if (process.id == 0 || process.generation != generation) return;
  if (process.connection == kNoConnection) return;
  if (process.has_asked) {
    process.rubbish = true;
    say(process, handoff::encode(process.asks), true);
    return leave_soon(process, kGoesOn_ns);
  }
  if (context_.fault(Dial::kBadRegister)) {
    say_rubbish(process);
    return leave_soon(process, kGoesOn_ns);
  }
  process.has_asked = true;
  context_.note(What::kRegisters, process.id, process.asks.lanes);
  say(process, handoff::encode(process.asks), true);
  if (context_.fault(Dial::kLeavesEarly)) leave_soon(process, 4 * kHears_ns);
  if (context_.fault(Dial::kRegistersTwice))
    context_.schedule(context_.random.skewed(kSpeaks_ns), Happening::Kind::kBackendSpeaks, place,
                      generation);
}

void Backends::all_leave() {
  closed_ = true;
  for (SimProcess& process : processes_)
    if (process.id != 0) leave_soon(process, kGoesOn_ns);
}

// --- hearing ---

void Backends::registry_says_something(std::uint32_t connection) {
  look_who_is_able();
  SimProcess* const process = who_has(connection);
  if (process == nullptr || process->deaf || std::exchange(process->hears_soon, true)) return;
  context_.schedule(context_.random.skewed(kHears_ns), Happening::Kind::kBackendHears,
                    place_of(*process), process->generation);
}

void Backends::hear(std::uint32_t place, std::uint32_t generation) {
  SimProcess& process = processes_[place];
  if (process.id == 0 || process.generation != generation) return;
  process.hears_soon = false;
  if (process.connection == kNoConnection) return;
  RegistryMessage message;
  while (registry_.receive(process.connection, message))
    take_in(process, message);
  if (registry_[process.connection].references == 0) connection_ended(process);
}

void Backends::take_in(SimProcess& process, const RegistryMessage& message) {
  const auto header = handoff::decode_header(message.payload);
  if (!header) broken(7, fmt::format("backend {} is sent no message", process.id));
  switch (static_cast<MessageType>(header->type)) {
    case MessageType::kWelcome:
      return is_welcomed(process, message);
    case MessageType::kRefuse:
      process.refused = true;
      context_.note(What::kRefusedBackend, process.id, header->count);
      return;
    case MessageType::kDrain:
    case MessageType::kGoodbye:
      if (!shutting_down_)
        broken(7, fmt::format("backend {} is sent away, and the mux stays", process.id));
      return;
    case MessageType::kRegister:
    case MessageType::kHandoff:
    case MessageType::kProbe:
      broken(7, fmt::format("backend {} is sent a message of type {}", process.id, header->type));
  }
}

void Backends::is_welcomed(SimProcess& process, const RegistryMessage& message) {
  if (process.welcomed || !process.has_asked)
    broken(7, fmt::format("backend {} is welcomed, and {}", process.id,
                          process.welcomed ? "was before" : "has not asked"));
  const Result<handoff::Welcome> welcome = handoff::decode_welcome(message.payload);
  if (!welcome) broken(7, welcome.error().message);
  check_grant(process, *welcome, message);
  process.welcomed = true;
  process.lanes = message.lanes;
  context_.note(What::kWelcomed, process.id, static_cast<std::int64_t>(message.lanes.size()));
  for (const std::uint32_t lane : process.lanes)
    kernel_.lane(lane).backend_place = place_of(process);
  look_who_is_able();
  soon(place_of(process));
}

// What it got is what it asked for.
void Backends::check_grant(const SimProcess& process, const handoff::Welcome& welcome,
                           const RegistryMessage& message) const {
  const std::size_t wanted = process.asks.lanes == 0 ? shards_ : process.asks.lanes;
  bool right = message.lanes.size() == wanted && welcome.lanes == wanted && welcome.window > 0 &&
               (process.asks.window == 0 || welcome.window <= process.asks.window) &&
               welcome.batch <= process.asks.batch;
  for (const std::uint32_t lane : message.lanes)
    right &= kernel_.lane(lane).services == process.services &&
             kernel_.lane(lane).window == welcome.window;
  if (!right)
    broken(7, fmt::format("backend {} is given {} lanes with a window of {}, and asked for other "
                          "ones",
                          process.id, message.lanes.size(), welcome.window));
}

// Its lanes may have something for it still.
void Backends::connection_ended(SimProcess& process) {
  context_.note(What::kRegistryEnds, process.id);
  const bool excused = registry_[process.connection].excused;
  const bool by_itself =
      process.leaving || process.rubbish || process.shut_a_lane || mux_has_ended_;
  if ((process.welcomed || (process.has_asked && !process.refused)) && !excused && !by_itself)
    broken(2,
           fmt::format("backend {} has registered, and is sent away without a word", process.id));
  registry_.leave(std::exchange(process.connection, kNoConnection));
  if (!mux_has_ended_ && !process.leaving)
    leave_soon(process, process.welcomed ? kGoesOn_ns : kSpeaks_ns);
  not_before_ns_ = context_.now_ns + context_.random.skewed(kTriesAgain_ns);
}

}  // namespace tcpmux::sim
