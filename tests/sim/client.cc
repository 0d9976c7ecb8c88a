#include "tests/sim/client.h"

#include <fmt/format.h>

namespace tcpmux::sim {
namespace {

constexpr std::uint32_t kSendRoom = 16 * 1024;
constexpr std::int64_t kSegmentGap_ns = 40 * kMicro_ns;

Endpoint endpoint(Random& random, std::uint8_t network) {
  Endpoint made;
  made.address.family = IpAddress::Family::kV4;
  made.address.bytes[0] = network;
  for (std::size_t i = 1; i < 4; ++i)
    made.address.bytes[i] = static_cast<std::uint8_t>(random.below(256));
  made.port = static_cast<std::uint16_t>(1 + random.below(65'535));
  return made;
}

}  // namespace

std::string service_name(std::uint32_t number) {
  return fmt::format("service-{}", number);
}

Clients::Clients(Context& context, std::uint32_t places) : context_(context), clients_(places) {
  for (std::uint32_t i = places; i > 0; --i)
    free_.push_back(i - 1);
}

std::uint32_t Clients::come(std::uint32_t services) {
  if (free_.empty()) return kNoClient;
  const std::uint32_t place = free_.back();
  free_.pop_back();
  ++in_use_;
  Client& client = clients_[place];
  // What has memory keeps it.
  std::string stream = std::move(client.stream);
  std::string told = std::move(client.told);
  const std::uint32_t generation = client.generation + 1;
  client = Client{};
  stream.clear();
  told.clear();
  client.stream = std::move(stream);
  client.told = std::move(told);
  client.generation = generation;
  client.serial = next_serial_++;
  client.references = 1;
  client.send_room = kSendRoom;
  write_script(client, services);
  write_ends(client);
  context_.schedule(context_.random.below(2) == 0 ? 0 : context_.random.skewed(kSegmentGap_ns),
                    Happening::Kind::kClientSends, place, client.generation);
  return place;
}

void Clients::write_script(Client& client, std::uint32_t services) {
  Random& random = context_.random;
  client.source = endpoint(random, random.below(2) == 0 ? 10 : 192);
  client.destination = endpoint(random, 198);
  if (context_.fault(Dial::kOddLine)) {
    write_odd_line(client);
  } else {
    client.service = random.below(services);
    client.stream = "service-";
    client.stream += static_cast<char>('0' + client.service);
    if (random.below(8) == 0) client.stream[0] = 'S';
  }
  if (client.asks != Asks::kEndless) client.stream += random.below(4) == 0 ? "\n" : "\r\n";
  client.line_bytes = static_cast<std::uint32_t>(client.stream.size());
  // The session's first bytes; a line end among them must not matter.
  for (std::uint32_t left = random.below(2) * random.below(24); left > 0; --left)
    client.stream += random.below(6) == 0 ? '\n' : static_cast<char>(random.below(256));
}

void Clients::write_odd_line(Client& client) {
  Random& random = context_.random;
  const auto longest = static_cast<std::uint32_t>(context_.dials[Dial::kLineBytesMax]);
  client.asks = static_cast<Asks>(1 + random.below(7));
  switch (client.asks) {
    case Asks::kService:
      return;
    case Asks::kLonely:
      client.stream = kLonelyName;
      return;
    case Asks::kForbidden:
      client.stream = kForbiddenName;
      return;
    case Asks::kUnknown:
      client.stream = "nobody-knows";
      return;
    case Asks::kHelp:
      client.stream = random.below(2) == 0 ? "HELP" : "help";
      return;
    case Asks::kMalformed:
      for (std::uint32_t left = random.below(9); left > 0; --left)
        client.stream += static_cast<char>(random.below(0x21));
      std::erase(client.stream, '\n');
      return;
    case Asks::kTooLong:
      client.stream.assign(longest + random.below(300), 'x');
      return;
    case Asks::kEndless:
      client.stream.assign(random.below(3 * longest), 'y');
      return;
  }
}

void Clients::write_ends(Client& client) {
  const auto bytes = static_cast<std::uint32_t>(client.stream.size());
  if (context_.fault(Dial::kFin)) client.fin_behind = context_.random.below(bytes + 1);
  if (context_.fault(Dial::kReset)) client.reset_behind = context_.random.below(bytes + 1);
  client.silent = context_.fault(Dial::kSilent);
  client.stays_on = context_.fault(Dial::kStaysOn);
  if (!context_.fault(Dial::kDoesNotRead)) return;
  client.reads = false;
  // A new socket takes something, whatever its peer does.
  client.send_room = 1 + context_.random.below(64);
}

// One segment, or an end.
void Clients::send_next(std::uint32_t place) {
  Client& client = clients_[place];
  if (client.is_gone()) return;
  if (client.arrived >= client.reset_behind) return end_with_reset(place);
  if (client.arrived >= client.fin_behind) return end_with_fin(place);
  Random& random = context_.random;
  auto count = static_cast<std::uint32_t>(client.stream.size()) - client.arrived;
  count =
      std::min({count, client.reset_behind - client.arrived, client.fin_behind - client.arrived});
  if (count > 1 && context_.fault(Dial::kSplit))
    count = random.below(2) == 0 ? 1 : 1 + random.below(count - 1);
  if (client.silent && count > 0) count = random.below(count);  // and no more
  client.arrived += count;
  if (count > 0) context_.note(What::kSends, client.serial, count);
  if (count > 0) changed(client, place);
  const bool ends = client.fin_behind != UINT32_MAX || client.reset_behind != UINT32_MAX;
  if (client.silent || (client.said_all() && !ends)) return;
  const bool slow = context_.fault(Dial::kSlow);
  context_.schedule(random.skewed(slow ? context_.ms(Dial::kHandshakeMs) : kSegmentGap_ns),
                    Happening::Kind::kClientSends, place, client.generation);
}

void Clients::end_with_fin(std::uint32_t place) {
  Client& client = clients_[place];
  if (client.is_gone()) return;
  client.fin = true;
  context_.note(What::kFin, client.serial, client.arrived);
  changed(client, place);
}

void Clients::end_with_reset(std::uint32_t place) {
  Client& client = clients_[place];
  if (client.reset) return;
  client.reset = true;
  // Some kernels throw away what has not been read.
  if (context_.random.below(2) == 0) client.arrived = client.consumed;
  context_.note(What::kReset, client.serial, client.arrived);
  changed(client, place);
}

void Clients::was_told(std::uint32_t place) {
  Client& client = clients_[place];
  if (!client.reads || client.reads_soon || client.reset) return;
  client.reads_soon = true;
  context_.schedule(context_.random.skewed(200 * kMicro_ns), Happening::Kind::kClientReads, place,
                    client.generation);
}

// It reads all that it was told, and goes its way.
void Clients::read_all(std::uint32_t place) {
  Client& client = clients_[place];
  client.reads_soon = false;
  if (client.reset) return;
  client.was_read = static_cast<std::uint32_t>(client.told.size());
  context_.note(What::kReads, client.serial, client.was_read);
  changed(client, place);
  if (client.told.empty()) return;
  if (client.told[0] == '+') {
    if (context_.fault(Dial::kReset)) end_with_reset(place);
    return;
  }
  if (context_.fault(Dial::kTalksOn)) {
    client.stream.append(1 + context_.random.below(4000), 'z');
    client.silent = false;
    client.fin_behind = client.reset_behind = UINT32_MAX;
    context_.schedule(context_.random.skewed(kNanosPerMilli), Happening::Kind::kClientSends, place,
                      client.generation);
  }
  if (client.write_is_shut && !client.stays_on) end_with_fin(place);
}

// A send queue that had no room for a moment has some.
void Clients::unblock(std::uint32_t place) {
  changed(clients_[place], place);
}

void Clients::let_go(std::uint32_t place) {
  Client& client = clients_[place];
  if (client.references == 0) broken(1, fmt::format("client {}: let go twice", client.serial));
  if (--client.references > 0) return;
  context_.note(What::kClientEnds, client.serial, client.received);
  client.serial = 0;
  client.watcher = nullptr;
  free_.push_back(place);
  --in_use_;
}

}  // namespace tcpmux::sim
