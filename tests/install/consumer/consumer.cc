// A backend in C++, in ten lines: says hello.
#include <sys/socket.h>

#include <iostream>
#include <tcpmux/backend.hpp>

int main(int argc, char** argv) try {
  tcpmux::BackendOptions options;
  if (argc > 1) options.registry = argv[1];
  tcpmux::Backend backend({"hello"}, options);
  while (const auto client = backend.accept())
    ::send(client->socket(), "hello\r\n", 7, MSG_NOSIGNAL);
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
