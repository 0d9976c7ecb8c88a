/* libtcpmux: how a program serves names behind tcpmuxd's one port. It registers its names with the
 * mux and receives accepted sockets: TCP connections whose clients asked for one of these names and
 * have been answered "+". From then on they are the program's alone, as if it had accepted them.
 *
 *     const char *services[] = {"hello"};
 *     tcpmux_backend *backend;
 *     int client;
 *     if (tcpmux_open(&backend, services, 1, NULL) != TCPMUX_OK) {
 *       fprintf(stderr, "%s\n", tcpmux_error(NULL));
 *       return 1;
 *     }
 *     while (tcpmux_accept(backend, -1, &client, NULL) == TCPMUX_OK) {
 *       write(client, "hello\r\n", 7);
 *       close(client);
 *     }
 *     tcpmux_close(backend);
 *
 * When the mux ends, the backend goes on with what it has, and registers again by itself as soon as
 * a mux is back, from within tcpmux_accept.
 *
 * Threads: a handle belongs to one thread at a time; the library has no locks. Different handles
 * are independent, so a program with several threads best opens one in each: the mux spreads
 * clients over them. No function raises SIGPIPE, starts a thread or changes signal handling.
 *
 * Processes: children of fork() may go on using a handle that was opened before, as with a
 * listening socket: each client goes to exactly one of them. See tcpmux_descriptor and tcpmux_close
 * for what differs in a child.
 *
 * The ABI grows only: structs that the library fills are read through pointers that it gives out,
 * and tcpmux_options begins with its size. */
#ifndef TCPMUX_BACKEND_H
#define TCPMUX_BACKEND_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TCPMUX_API __attribute__((visibility("default")))
#else
#define TCPMUX_API
#endif

#define TCPMUX_REGISTRY_DEFAULT "/run/tcpmux/registry.sock"

/* A registration with the mux, or the attempt at one. */
typedef struct tcpmux_backend tcpmux_backend;

/* 0 is success, above it is what happens in a healthy program, below it is trouble of which
 * tcpmux_error() tells more. */
typedef enum tcpmux_result {
  TCPMUX_OK = 0,
  TCPMUX_EMPTY = 1,       /* no client within the time that was given */
  TCPMUX_INTERRUPTED = 2, /* a signal handler ran while we waited */
  TCPMUX_ENDED = 3,       /* after tcpmux_drain: nothing will come any more */

  TCPMUX_REFUSED = -1,        /* the mux refused: tcpmux_refusal() has its code */
  TCPMUX_ABSENT = -2,         /* no mux could be reached, or none that answered in time */
  TCPMUX_NO_DESCRIPTORS = -3, /* RLIMIT_NOFILE: close some; clients stay with the mux meanwhile */
  TCPMUX_LOST = -4,           /* clients were lost for want of descriptors: counted, and go on */
  TCPMUX_ERROR = -5           /* a system call failed, or an argument cannot be right */
} tcpmux_result;

/* Why a registration was refused (handoff/PROTOCOL.md, Refuse). */
typedef enum tcpmux_refusal_code {
  TCPMUX_REFUSAL_NONE = 0,
  TCPMUX_REFUSAL_MALFORMED = 1,
  TCPMUX_REFUSAL_VERSION = 2,
  TCPMUX_REFUSAL_NOT_ALLOWED = 3,     /* this user may not register, or not this name */
  TCPMUX_REFUSAL_UNKNOWN_SERVICE = 4, /* not configured, and the registry is not open */
  TCPMUX_REFUSAL_BAD_NAME = 5,
  TCPMUX_REFUSAL_NO_ROOM = 6,      /* passes: worth trying again later */
  TCPMUX_REFUSAL_SHUTTING_DOWN = 7 /* passes: worth trying again later */
} tcpmux_refusal_code;

/* All zero but `size` is a good choice: TCPMUX_OPTIONS_INIT. */
typedef struct tcpmux_options {
  size_t size;          /* sizeof(tcpmux_options) */
  const char* registry; /* the mux's socket; NULL: $TCPMUX_REGISTRY, or the default above */
  uint32_t window;      /* how many clients may wait for you in one lane; 0: what the mux allows */
  uint16_t batch;       /* how many sockets may come in one message, 1 to 64; 0: 8. What has come is
                           yours alone to serve, so more is rarely better */
  uint16_t lanes;       /* how many queues, at most 64; 0: one for each of the mux's threads */
  int nonblocking;      /* 1: sockets are given with O_NONBLOCK set; 0: blocking */
  int wait_for_mux;     /* 1: tcpmux_open succeeds without a mux too, and tcpmux_accept finds it */
  int open_timeout_ms;  /* how long tcpmux_open waits for the mux's answer; 0: 5000 */
  int retry_first_ms;   /* pause before registering again; it doubles each time... 0: 50 */
  int retry_last_ms;    /* ...up to this; 0: 5000. Pauses are shortened by up to half, by chance */
  int without_addresses; /* 1: facts need not say them, which spares the mux about 1 us for each
                           client; getpeername and getsockname on the socket do. 0: they say them */
} tcpmux_options;

#define TCPMUX_OPTIONS_INIT {sizeof(tcpmux_options), NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0}

/* What the mux says of a client. Later versions add fields at the end. */
typedef struct tcpmux_facts {
  struct sockaddr_storage client;      /* ss_family is AF_UNSPEC where it is not known */
  struct sockaddr_storage destination; /* the address that the client connected to */
  socklen_t client_bytes;
  socklen_t destination_bytes;
  const char* service; /* the name that was asked for, as the mux has it */
  uint8_t id[16];      /* names this connection, also in the mux's log */
  int64_t accepted_ns; /* when the mux accepted it: nanoseconds since 1970 */
} tcpmux_facts;

typedef enum tcpmux_state {
  TCPMUX_WAITING = 0,  /* no mux, or no answer yet: tcpmux_accept keeps trying */
  TCPMUX_SERVING = 1,  /* registered */
  TCPMUX_DRAINING = 2, /* registered, but no new clients come: you or the mux said so */
  TCPMUX_STOPPED = 3   /* refused for good, or drained to the end: only tcpmux_close is left */
} tcpmux_state;

/* Of this process, since tcpmux_open. Later versions add fields at the end. */
typedef struct tcpmux_counters {
  uint64_t sockets;       /* received, whether or not tcpmux_accept has given them out yet */
  uint64_t messages;      /* that carried them */
  uint64_t clients_lost;  /* their sockets did not fit into our descriptor table (MSG_CTRUNC) */
  uint64_t registrations; /* that succeeded: above 1, the mux was gone in between */
} tcpmux_counters;

/* Registers `count` (1 to 64) services and stores a new handle in *backend, which the caller ends
 * with tcpmux_close. The strings and `options` (NULL: all defaults) are copied. Waits for the mux's
 * answer, at most options->open_timeout_ms.
 *
 * TCPMUX_OK, or on failure, with *backend NULL: TCPMUX_REFUSED, TCPMUX_ABSENT,
 * TCPMUX_NO_DESCRIPTORS, TCPMUX_ERROR. tcpmux_error(NULL) then says why, and tcpmux_refusal(NULL)
 * has the code. With options->wait_for_mux, absence and refusals that pass (no room, shutting down)
 * are not failures. */
TCPMUX_API tcpmux_result tcpmux_open(tcpmux_backend** backend, const char* const* services,
                                     size_t count, const tcpmux_options* options);

/* The next client: stores its socket (close-on-exec, in the blocking mode that was asked for) in
 * *socket, which the caller closes, and, unless `facts` is NULL, what is known of it in *facts,
 * valid until the next call with this handle. Waits up to `timeout_ms`: 0 does not wait, -1 waits
 * for ever. Everything else that the registration needs happens in here too, and never blocks.
 *
 * TCPMUX_OK, TCPMUX_EMPTY, TCPMUX_INTERRUPTED, TCPMUX_ENDED, or
 * TCPMUX_REFUSED: the mux was gone, and will not have us back;
 * TCPMUX_NO_DESCRIPTORS: nothing was received and nobody lost; close something before you try again
 *   (the handle's descriptor stays readable meanwhile: do not poll it in a circle);
 * TCPMUX_LOST: said once for each message that arrived short, after the clients that did arrive;
 * TCPMUX_ERROR: in anything but a shortage of memory, close the handle.
 * On any of these *socket is -1. */
TCPMUX_API tcpmux_result tcpmux_accept(tcpmux_backend* backend, int timeout_ms, int* socket,
                                       const tcpmux_facts** facts);

/* A descriptor for poll, select and epoll (level-triggered), the same for the handle's life:
 * readable means that tcpmux_accept has something to do. Call tcpmux_accept with timeout 0 until
 * it says TCPMUX_EMPTY: one message may bring several clients, and the descriptor does not show
 * those that the handle already holds. It belongs to the handle: poll it, nothing else.
 *
 * After fork(), the child calls this (or tcpmux_accept) before it polls: that gives the child a set
 * of its own under the same number. An epoll instance inherited from the parent does not know it.
 */
TCPMUX_API int tcpmux_descriptor(tcpmux_backend* backend);

TCPMUX_API tcpmux_state tcpmux_get_state(const tcpmux_backend* backend);

/* Valid, and kept up to date, until tcpmux_close. */
TCPMUX_API const tcpmux_counters* tcpmux_get_counters(const tcpmux_backend* backend);

/* The path of the registry that is in use. Valid until tcpmux_close. */
TCPMUX_API const char* tcpmux_registry(const tcpmux_backend* backend);

/* One line for a person: the latest trouble of this handle, as why the mux is away; empty when all
 * is well. Valid until the next call with this handle. With NULL: why this thread's latest
 * tcpmux_open failed, valid until its next. Never NULL. */
TCPMUX_API const char* tcpmux_error(const tcpmux_backend* backend);

/* The mux's code if its latest answer was a refusal (a tcpmux_refusal_code, or one of a later
 * version), else 0. With NULL: of this thread's latest tcpmux_open. */
TCPMUX_API int tcpmux_refusal(const tcpmux_backend* backend);

/* Asks the mux for no more clients and for no new registration later. tcpmux_accept goes on
 * delivering what waits in the lanes; when it says TCPMUX_EMPTY, tcpmux_close is due: should
 * clients still come in between, the mux hands them to another backend. In a child that inherited
 * the registration this does nothing: it is the parent's. Always TCPMUX_OK. */
TCPMUX_API tcpmux_result tcpmux_drain(tcpmux_backend* backend);

/* Ends the registration: the mux takes back who still waits in the lanes. Clients that this handle
 * has received, but tcpmux_accept has not yet given out (fewer than `batch`), are closed: accept
 * until TCPMUX_EMPTY first. Sockets that were given out are not touched. In a child that inherited
 * the registration only this process's share is closed. NULL is allowed. */
TCPMUX_API void tcpmux_close(tcpmux_backend* backend);

/* "192.0.2.7:50000", "[2001:db8::1]:50000", "unknown": written to `text`, cut to `size` bytes with
 * the final zero (64 always suffice). Gives `text` back. Any thread. */
TCPMUX_API char* tcpmux_address_text(const struct sockaddr_storage* address, char* text,
                                     size_t size);

/* The library's version, as "0.1.0". Any thread. */
TCPMUX_API const char* tcpmux_version(void);

#ifdef __cplusplus
}
#endif

#endif
