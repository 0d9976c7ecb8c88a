/* A backend over libtcpmux's C functions, for the tests of what outlives the mux: it serves one
 * name as an echo, all clients in one thread, and says how often it has registered. Usage:
 * c_backend REGISTRY NAME */
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <tcpmux/backend.h>
#include <unistd.h>

enum { CLIENTS_MAX = 256 };

/* polled[0] is the library's descriptor, the others are clients. */
static struct pollfd polled[1 + CLIENTS_MAX];
static nfds_t count = 1;

static void take_clients(tcpmux_backend* backend) {
  int client;
  tcpmux_result result = TCPMUX_OK;
  while (count <= CLIENTS_MAX && (result = tcpmux_accept(backend, 0, &client, NULL)) == TCPMUX_OK) {
    polled[count].fd = client;
    polled[count].events = POLLIN;
    polled[count].revents = 0;
    count++;
  }
  if (result < TCPMUX_OK) printf("accept: %s\n", tcpmux_error(backend));
}

static void say_state(const tcpmux_backend* backend) {
  static uint64_t registrations = 0;
  static tcpmux_state said = TCPMUX_STOPPED;
  const tcpmux_state state = tcpmux_get_state(backend);
  if (tcpmux_get_counters(backend)->registrations != registrations) {
    registrations = tcpmux_get_counters(backend)->registrations;
    printf("serving, registration %llu\n", (unsigned long long)registrations);
  } else if (state != said && state == TCPMUX_WAITING) {
    printf("waiting: %s\n", tcpmux_error(backend));
  }
  said = state;
}

/* 0 when the client has gone. */
static int echo(int client) {
  char bytes[4096];
  const ssize_t got = read(client, bytes, sizeof bytes);
  return got > 0 && write(client, bytes, (size_t)got) == got;
}

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const char* services[] = {argv[2]};
  tcpmux_options options = TCPMUX_OPTIONS_INIT;
  options.registry = argv[1];
  options.wait_for_mux = 1;
  tcpmux_backend* backend;
  signal(SIGPIPE, SIG_IGN);
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (tcpmux_open(&backend, services, 1, &options) != TCPMUX_OK) {
    printf("open: %s\n", tcpmux_error(NULL));
    return 1;
  }
  polled[0].fd = tcpmux_descriptor(backend);
  for (;;) {
    take_clients(backend);
    say_state(backend);
    polled[0].events = count <= CLIENTS_MAX ? POLLIN : 0;
    if (poll(polled, count, -1) < 0) return 1;
    for (nfds_t i = 1; i < count; i++) {
      if (polled[i].revents == 0 || echo(polled[i].fd)) continue;
      close(polled[i].fd);
      polled[i--] = polled[--count];
    }
  }
}
