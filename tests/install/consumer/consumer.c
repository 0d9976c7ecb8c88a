/* A backend in C, in ten lines: says hello. */
#include <stdio.h>
#include <tcpmux/backend.h>
#include <unistd.h>

int main(int argc, char** argv) {
  const char* services[] = {"hello"};
  tcpmux_options options = TCPMUX_OPTIONS_INIT;
  options.registry = argc > 1 ? argv[1] : NULL;
  tcpmux_backend* backend;
  int client;
  if (tcpmux_open(&backend, services, 1, &options) != TCPMUX_OK)
    return fprintf(stderr, "%s\n", tcpmux_error(NULL)) > 0 ? 1 : 2;
  while (tcpmux_accept(backend, -1, &client, NULL) == TCPMUX_OK) {
    if (write(client, "hello\r\n", 7) < 0) perror("write");
    close(client);
  }
  tcpmux_close(backend);
  return 0;
}
