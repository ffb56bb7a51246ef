"""Answers one connection with the bytes of a file, and ends with it: once.py FILE [tls CERTIFICATE KEY].

What it says on stdout: "port N" when it listens, "written" when the kernel has taken everything.
"""
import socket, ssl, sys

answer = open(sys.argv[1], 'rb').read()
listener = socket.create_server(('127.0.0.1', 0))
# So that all of the answer is with the kernel before the client has taken much of it.
listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
print('port', listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
if sys.argv[2:3] == ['tls']:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3], sys.argv[4])
    connection = context.wrap_socket(connection, server_side=True)
head = b''
while b'\r\n\r\n' not in head:
    head += connection.recv(65536)
connection.sendall(answer)
print('written', flush=True)
# Without TLS's close_notify, as many servers do.
connection.close()
