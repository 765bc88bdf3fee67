import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * Programs that leak connections, one for each name; the line at fault carries a comment with the name.
 *
 * usage: Leaks NAME HTTP LINES
 */
public class Leaks {
    static final List<Object> KEPT = Collections.synchronizedList(new ArrayList<>());
    static int http;
    static int lines;

    interface Step {
        void run(int n) throws Exception;
    }

    static void pace(Step step) throws Exception {
        System.out.println("ready");
        for (int n = 0;; n++) {
            step.run(n);
            Thread.sleep(700);
        }
    }

    static class Gallery {
        void show(int picture) throws IOException {
            HttpURLConnection c = (HttpURLConnection) new URL("http://127.0.0.1:" + http + "/big/pictures/" + picture)
                    .openConnection();
            KEPT.add(c.getInputStream()); // LEAK unread
        }
    }

    static void measure(int n) throws IOException {
        Socket s = new Socket("127.0.0.1", lines); // LEAK raw
        s.getOutputStream().write(("measure " + n + "\n").getBytes());
        s.getInputStream().read(new byte[100]);
        KEPT.add(s); // END raw
    }

    static void ask(int n) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        HttpRequest request = HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + http + "/small/offers/" + n))
                .version(HttpClient.Version.HTTP_1_1).build();
        client.send(request, HttpResponse.BodyHandlers.ofString()); // LEAK client-per-call
        KEPT.add(client);
    }

    static void channel(int n) throws IOException {
        SocketChannel c = SocketChannel.open(new InetSocketAddress("127.0.0.1", lines)); // LEAK channel
        c.write(ByteBuffer.wrap(("note " + n + "\n").getBytes()));
        c.read(ByteBuffer.allocate(100));
        KEPT.add(c); // END channel
    }

    static final ExecutorService WORKERS = Executors.newFixedThreadPool(3);

    static void inWorker(int n) {
        WORKERS.submit(() -> fetchReport(n));
    }

    static Void fetchReport(int n) throws IOException {
        Socket s = new Socket("127.0.0.1", http); // LEAK worker
        OutputStream out = s.getOutputStream();
        out.write(("GET /big/reports/" + n + " HTTP/1.1\r\nHost: reports.test\r\n\r\n").getBytes());
        s.getInputStream().read(new byte[512]);
        KEPT.add(s); // END worker
        return null;
    }

    static void lastWords(int n) throws IOException {
        Socket s = new Socket("127.0.0.1", http); // LEAK close-wait
        s.getOutputStream().write("GET /last/words HTTP/1.1\r\nHost: words.test\r\n\r\n".getBytes());
        InputStream in = s.getInputStream();
        while (in.read(new byte[512]) > 0) { }
        KEPT.add(s); // END close-wait
    }

    static final HttpClient SHARED = HttpClient.newHttpClient();

    static HttpRequest of(String path) {
        return HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + http + path))
                .version(HttpClient.Version.HTTP_1_1).build();
    }

    static void warmUp(int n) throws Exception {
        SHARED.send(of("/small/warm/" + n), HttpResponse.BodyHandlers.ofString());
    }

    static void openReport(int n) throws Exception {
        KEPT.add(SHARED.send(of("/big/reports/" + n), HttpResponse.BodyHandlers.ofInputStream())); // LEAK pooled
    }

    static Void handle(Socket s) throws IOException {
        s.getInputStream().read(new byte[512]); // LEAK pool-server
        s.getOutputStream().write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".getBytes());
        KEPT.add(s); // END pool-server
        return null;
    }

    static void poolServer() throws IOException {
        ServerSocket shop = new ServerSocket(0);
        System.out.println("ready " + shop.getLocalPort());
        while (true) {
            Socket s = shop.accept();
            WORKERS.submit(() -> handle(s));
        }
    }

    static void server() throws IOException {
        ServerSocket shop = new ServerSocket(0);
        System.out.println("ready " + shop.getLocalPort());
        while (true) {
            Socket s = shop.accept(); // LEAK server
            s.getInputStream().read(new byte[512]);
            s.getOutputStream().write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".getBytes());
            KEPT.add(s); // END server
        }
    }

    public static void main(String[] args) throws Exception {
        http = Integer.parseInt(args[1]);
        lines = Integer.parseInt(args[2]);
        Gallery gallery = new Gallery();
        switch (args[0]) {
            case "unread": pace(gallery::show); break;
            case "raw": pace(Leaks::measure); break;
            case "client-per-call": pace(Leaks::ask); break;
            case "channel": pace(Leaks::channel); break;
            case "worker": pace(Leaks::inWorker); break;
            case "close-wait": pace(Leaks::lastWords); break;
            case "pooled": pace(n -> { warmUp(n); openReport(n); }); break;
            case "pool-server": poolServer(); break;
            case "server": server(); break;
            default: throw new IllegalArgumentException(args[0]);
        }
    }
}
