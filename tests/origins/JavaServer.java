// The JDK's own HTTP server: NIO channels, a selector, a pool of threads that write and block.
//
// java JavaServer HOST PORT
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.HexFormat;
import java.util.concurrent.Executors;

public class JavaServer {
  static final int PERIOD = 1048573;
  static final int STEP = 65536;
  static final byte[] TABLE = table();

  static MessageDigest digest() {
    try {
      return MessageDigest.getInstance("SHA-256");
    } catch (java.security.NoSuchAlgorithmException e) {
      throw new IllegalStateException(e);
    }
  }

  static byte[] table() {
    byte[] twice = new byte[2 * PERIOD];
    MessageDigest digest = digest();
    for (int i = 0; i * 32 < PERIOD; i++) {
      byte[] sum = digest.digest(ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(i).array());
      System.arraycopy(sum, 0, twice, i * 32, Math.min(32, PERIOD - i * 32));
    }
    System.arraycopy(twice, 0, twice, PERIOD, PERIOD);
    return twice;
  }

  static void write(OutputStream out, long n) throws IOException {
    for (long at = 0; at < n; ) {
      int length = (int) Math.min(n - at, STEP);
      out.write(TABLE, (int) (at % PERIOD), length);
      at += length;
    }
  }

  static void text(HttpExchange exchange, int status, String text) throws IOException {
    byte[] bytes = text.getBytes(StandardCharsets.ISO_8859_1);
    exchange.sendResponseHeaders(status, bytes.length);
    exchange.getResponseBody().write(bytes);
  }

  static void serve(HttpExchange exchange) throws IOException {
    String[] parts = exchange.getRequestURI().getPath().substring(1).split("/");
    long n = parts.length > 1 && parts[1].matches("[0-9]+") ? Long.parseLong(parts[1]) : 0;
    InputStream in = exchange.getRequestBody();
    OutputStream out = exchange.getResponseBody();
    byte[] buffer = new byte[STEP];
    switch (parts[0]) {
      case "bytes" -> {
        boolean head = exchange.getRequestMethod().equals("HEAD");
        if (head) exchange.getResponseHeaders().set("Content-Length", Long.toString(n));
        exchange.sendResponseHeaders(200, head || n == 0 ? -1 : n);
        if (!head) write(out, n);
      }
      case "chunked" -> {
        exchange.sendResponseHeaders(200, 0);
        write(out, n);
      }
      case "sink" -> {
        MessageDigest digest = digest();
        long length = 0;
        for (int read; (read = in.read(buffer)) >= 0; length += read) digest.update(buffer, 0, read);
        text(exchange, 200, length + " " + HexFormat.of().formatHex(digest.digest()) + "\n");
      }
      case "echo" -> {
        exchange.sendResponseHeaders(200, 0);
        for (int read; (read = in.read(buffer)) >= 0; ) {
          out.write(buffer, 0, read);
          out.flush();
        }
      }
      case "events" -> {
        exchange.getResponseHeaders().set("Content-Type", "text/event-stream");
        exchange.sendResponseHeaders(200, 0);
        for (long i = 0; i < n; i++) {
          out.write(("data: " + i + "\n\n").getBytes(StandardCharsets.ISO_8859_1));
          out.flush();
          sleep();
        }
      }
      case "status" -> exchange.sendResponseHeaders((int) n, -1);
      default -> text(exchange, 404, "not here\n");
    }
  }

  static void sleep() {
    try {
      Thread.sleep(10);
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    }
  }

  public static void main(String[] args) throws IOException {
    HttpServer server = HttpServer.create(new InetSocketAddress(args[0], Integer.parseInt(args[1])), 4096);
    server.setExecutor(Executors.newCachedThreadPool());
    server.createContext("/", exchange -> {
      // An exception of a client that went away closes the connection, as it should.
      try (exchange) {
        serve(exchange);
      }
    });
    server.start();
    System.out.println("ready");
  }
}
