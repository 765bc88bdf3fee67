import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.net.URL;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayDeque;
import java.util.Deque;

/**
 * Programs that only look as if they leaked, one for each name.
 *
 * usage: Healthy NAME HTTP LINES
 */
public class Healthy {
    interface Step {
        void run(int n) throws Exception;
    }

    static void pace(Step step, int ms) throws Exception {
        System.out.println("ready");
        for (int n = 0;; n++) {
            step.run(n);
            Thread.sleep(ms);
        }
    }

    public static void main(String[] args) throws Exception {
        int http = Integer.parseInt(args[1]);
        int lines = Integer.parseInt(args[2]);
        switch (args[0]) {
            case "shared-client": {
                HttpClient client = HttpClient.newHttpClient();
                pace(n -> client.send(
                        HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + http + "/small/offers/" + n)).build(),
                        HttpResponse.BodyHandlers.ofString()), 200);
                break;
            }
            case "read-to-end":
                pace(n -> {
                    HttpURLConnection c = (HttpURLConnection) new URL("http://127.0.0.1:" + http + "/small/p/" + n)
                            .openConnection();
                    try (InputStream in = c.getInputStream()) {
                        in.readAllBytes();
                    }
                }, 200);
                break;
            case "replaced": {
                Deque<Socket> open = new ArrayDeque<>();
                pace(n -> {
                    Socket s = new Socket("127.0.0.1", lines);
                    s.getOutputStream().write(("subscribe " + n + "\n").getBytes());
                    s.getInputStream().read(new byte[100]);
                    open.addLast(s);
                    if (open.size() > 10) {
                        open.removeFirst().close();
                    }
                }, 2500);
                break;
            }
            case "idle":
                pace(n -> { }, 5000);
                break;
            case "server": {
                ServerSocket shop = new ServerSocket(0);
                System.out.println("ready " + shop.getLocalPort());
                while (true) {
                    Socket s = shop.accept();
                    new Thread(() -> serve(s)).start();
                }
            }
            default:
                throw new IllegalArgumentException(args[0]);
        }
    }

    static void serve(Socket s) {
        try (s) {
            byte[] request = new byte[4096];
            while (s.getInputStream().read(request) > 0) {
                s.getOutputStream().write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".getBytes());
            }
        } catch (IOException e) {
            // the client went
        }
    }
}
