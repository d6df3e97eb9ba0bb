package sums;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;

/** Answers GET /sum?2+3+4 with a sentence about the sum. */
public final class Main {
    private static final String SENTENCE = read("/sentence.txt").strip();

    public static void main(String[] args) throws IOException {
        HttpServer server = HttpServer.create(new InetSocketAddress(8080), 0);
        server.createContext("/sum", Main::answer);
        server.start();
    }

    private static void answer(HttpExchange exchange) throws IOException {
        try (exchange) {
            String query = exchange.getRequestURI().getRawQuery();
            int status = 200;
            String text;
            try {
                text = String.format(SENTENCE, Sum.of(query == null ? "" : query)) + "\n";
            } catch (NumberFormatException error) {
                status = 400;
                text = "ask for /sum?1+2+3\n";
            }
            byte[] body = text.getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(status, body.length);
            exchange.getResponseBody().write(body);
        }
    }

    private static String read(String name) {
        try (InputStream stream = Main.class.getResourceAsStream(name)) {
            return new String(stream.readAllBytes(), StandardCharsets.UTF_8);
        } catch (IOException error) {
            throw new ExceptionInInitializerError(error);
        }
    }
}
